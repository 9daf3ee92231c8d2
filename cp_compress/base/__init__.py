"""What does everything else stand on? Errors, checks of arguments, digests, files, expressions and batches."""
