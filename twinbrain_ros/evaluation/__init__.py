"""Episodes to figures. Nothing here knows where the events come from: live topics or recorded ones."""
