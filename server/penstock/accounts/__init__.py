"""Who may call: users, API keys and sessions, and what their credentials say."""
