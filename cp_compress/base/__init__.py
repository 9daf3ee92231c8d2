"""What every wing stands on: errors, argument rules, expressions, digests, files, batches and labelled data."""
