"""Commands are killed at any moment, started again, and must end as if nothing had been; long runs must not grow."""
