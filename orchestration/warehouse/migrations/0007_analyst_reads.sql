-- What analysts and monitoring need to know about model runs and gates, views of schema monitoring tell
-- (monitoring.model_runs, monitoring.gate_results); neither role looks into the registry itself any more.
revoke select on ml.runs, ml.run_transitions, ml.active_run from analyst, monitor;
revoke select on ml.gate_runs, ml.gate_verdicts, ml.run_inputs from monitor;
revoke usage on schema ml from analyst, monitor;
-- Serving functions answer from what happened a second ago; they are the app's door. An analyst reads what dbt built.
revoke usage on schema serving from analyst;
