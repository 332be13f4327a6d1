"""Image files: PNG and BMP by themselves, JPEG, GIF and WebP by Pillow."""
