-- The service's own table. The outbox lies in the same database, so that one transaction writes both.
create table if not exists public.account (
    account_id uuid primary key,
    subject text not null unique, -- who it is at the issuer of tokens
    email text not null,
    name text not null,
    country text not null,
    registered_at timestamptz not null default now()
);
