"""What "fit to train on" means, as code. Describes and judges tables; never changes them, never schedules itself."""
