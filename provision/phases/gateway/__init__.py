"""The gateway: HAProxy before all serving hosts; its configuration is rendered here, and nothing else is done."""
