"""Pure tensor functions. They know no model."""
