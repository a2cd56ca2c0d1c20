-- Serving reads its policies and what is popular; which relations, dbt grants one by one.
grant usage on schema marts to serving_owner;
