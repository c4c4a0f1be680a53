"""The only place that talks to Redis and AWS. Driver exceptions stop here and leave as saltctl errors."""
