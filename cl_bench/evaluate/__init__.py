"""What is measured downstream of an encoder: linear evaluation, detection, and average precision."""
