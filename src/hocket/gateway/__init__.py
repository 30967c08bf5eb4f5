"""The live driver: OpenAI-compatible HTTP in, HTTP out to the engines. The only asynchronous code of hocket."""
