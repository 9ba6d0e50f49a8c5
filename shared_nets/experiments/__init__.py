"""The papers' experiments: cross-validation of a bundle, and tables of networks trained alike."""
