"""Reading and writing: pictures, label maps, videos. Knows files, never models or metrics."""
