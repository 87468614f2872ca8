"""Where in a picture a score comes from: heatmaps, and how well they meet an object whose mask is known."""
