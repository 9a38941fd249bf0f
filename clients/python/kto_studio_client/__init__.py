"""Sends completions and thumbs to KTO Studio from a thread of its own: calls return at once, nothing is lost silently.

from kto_studio_client import Client

client = Client("https://kto.example.org", "kto_…")
output = client.log_completion(prompt="How long does a refund take?", completion="3 to 5 working days.")
client.feedback(output, up=True, rater="customer-81")
"""

from kto_studio_client._api import AsyncClient, Client
from kto_studio_client._engine import Drop

__all__ = ["AsyncClient", "Client", "Drop"]
__version__ = "0.1.0"
