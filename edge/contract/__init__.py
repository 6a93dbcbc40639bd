"""The published documents, generated from the types: JSON Schemas and AsyncAPI."""
