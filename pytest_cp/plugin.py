"""The hooks through which pytest loads the plugin."""
