"""Which damaged or hostile models, state dicts and exported programs must be refused."""
