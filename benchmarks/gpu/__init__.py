"""Parts of ``on_gpu.py``: what one card is to settle."""
