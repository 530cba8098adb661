-- Access for people who only ask: a role, the limits of each of its queries, and what it may use in an hour.
--
-- An administrator runs it once, and again whenever a limit changes; users stay as they are. Millrace's own user needs
-- no right to do so. How to run it, and how a person gets in: docs/analysts.md, which repeats every limit.

create role if not exists analyst;

-- Not `events_raw`: it can hold an event twice. The views in `events` read it with the rights of Millrace's user.
grant select on events.* to analyst;
grant select on metrics.* to analyst;

create settings profile or replace analyst settings
    -- No statement changes anything, and none changes a setting, so no limit below can be lifted. The exceptions are
    -- three that clients insist on setting; those stay within a limit of their own.
    readonly = 1,
    -- A minute is as long as anybody waits for an answer; what takes longer runs elsewhere, at night. Go clients,
    -- Grafana's among them, set their own deadline and 5 s.
    max_execution_time = 60 min 1 max 70 changeable_in_readonly,
    -- Years of a shop's events and of most of a platform's; a query without a filter on time finds this limit first.
    max_rows_to_read = 1000000000,
    -- Uncompressed, so about a tenth of it from the disk: what a disk reads in that minute.
    max_bytes_to_read = 100000000000,
    -- Larger groupings and sorts go to the disk; what still does not fit must not push out the inserts.
    max_memory_usage = 4000000000,
    -- All queries of one person at the same time.
    max_memory_usage_for_user = 8000000000,
    -- More than anybody reads and more than a notebook draws; larger exports are cut by time. JDBC clients, DBeaver
    -- among them, ask for as few rows as they show.
    max_result_rows = 1000000 min 1 max 1000000 changeable_in_readonly,
    max_result_bytes = 1000000000,
    -- An answer that is too large is refused: a part of it would look like all of it. DBeaver, which shows 200 rows at
    -- first, asks for the part.
    result_overflow_mode = 'throw' changeable_in_readonly,
    read_overflow_mode = 'throw',
    timeout_overflow_mode = 'throw',
    -- The other cores are for inserts and merges.
    max_threads = 4,
    -- A dashboard asks all its panels at once, and two people may open it.
    max_concurrent_queries_for_user = 40
    to analyst;

-- Counted for each user, so that one person's loop does not lock out the others.
create quota or replace analyst keyed by user_name for interval 1 hour max
    -- A dashboard that renews itself every minute is about 1,200.
    queries = 5000,
    -- A program that repeats what fails is stopped; nobody mistypes so often.
    errors = 500,
    -- Ten of the largest queries, or thousands of usual ones.
    read_rows = 10000000000,
    result_rows = 20000000,
    -- Seconds that queries ran, whoever ran them side by side: one of the server's cores or so.
    execution_time = 3600
    to analyst;
