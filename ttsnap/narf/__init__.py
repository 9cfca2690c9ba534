"""Noise-aware reward finetuning (NARF, arXiv 2511.22242): one student of the reward per step."""
