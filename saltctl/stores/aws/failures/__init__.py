"""The errors of AWS: what a refusal means, and the conversion to saltctl's errors."""
