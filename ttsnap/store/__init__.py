"""What is kept on disk or object storage: trajectory stores, tensors, tables, receipts."""
