"""Does a measurement hold what is required? Metrics, evidence, intervals and outcomes."""
