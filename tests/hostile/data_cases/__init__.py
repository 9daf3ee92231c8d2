"""Which damaged or hostile data sets, images, streams and tables must be refused."""
