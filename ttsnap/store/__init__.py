"""What is kept on disk or object storage: trajectory stores, tensors, tables, receipts.

Knows prompts, and nothing of models, rewards or searches. Importing it imports neither torch nor
Zarr.
"""
