"""The floor of the single-event benchmark: an endpoint that checks the same body and returns, with nothing behind it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from app.feedback.schemas import FeedbackItem

app = FastAPI(openapi_url=None)


@app.post("/api/v1/feedback", status_code=201)
async def send_feedback(item: FeedbackItem) -> dict[str, Any]:
    return {"index": 0, "status": "created", "id": 1, "output_id": 1, "label": item.label}
