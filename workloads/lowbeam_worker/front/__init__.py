"""The serving port: OpenAI and TEI routes, validation, errors in OpenAI's shape."""
