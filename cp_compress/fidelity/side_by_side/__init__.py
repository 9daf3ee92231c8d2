"""How two models run side by side, batch by batch, where their whole outputs are not kept."""
