"""What users said and saw: the rules of each kind of row, and how it enters its table."""
