"""Outputs without a thumb: an app sends what its model answered, and thumbs follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.accounts.access import KeyHolder
from app.core.db import Db
from app.feedback.api_parts import Body, Writer, batch_body, batch_items, batch_result, source_of, split_good
from app.feedback.idempotency import Answer, once
from app.feedback.schemas import EXAMPLE_COMPLETION, BatchResult, CompletionItem, ItemResult, parse_completion_item
from app.feedback.service import ingest
from app.web.openapi import BEARER, error_answers

router = APIRouter(prefix="/api/v1", tags=["completions"], dependencies=[BEARER])

WORDS = {"completion_id": "external_id"}
"""Fields of feedback by the names that they have here."""


def store_completions(
    db: Session, holder: KeyHolder, good: list[tuple[int, CompletionItem]], bad: list[ItemResult]
) -> BatchResult:
    items = [item.as_feedback() for _, item in good]
    stored = ingest(db, holder.project, items, source_of(holder.key)) if items else []
    for result in stored:
        result.fields = {WORDS.get(name, name): words for name, words in result.fields.items()}
    return batch_result([place for place, _ in good], stored, bad)


def answer_batch(
    db: Session,
    holder: KeyHolder,
    request: Request,
    body: Any,
    items: list[Any],
    parse: Callable[[Any], CompletionItem],
) -> Response:
    def work() -> Answer:
        return Answer(200, store_completions(db, holder, *split_good(items, parse)))

    return once(db, holder.project.id, source_of(holder.key), request, body, work).response()


@router.post(
    "/completions/batch",
    summary="Send up to 1,000 outputs",
    responses={200: {"model": BatchResult}, **error_answers(409, 413, 415, 422)},
    openapi_extra=batch_body("CompletionBatch", CompletionItem.model_json_schema(), EXAMPLE_COMPLETION),
)
def send_completions(request: Request, db: Db, holder: Writer, body: Body) -> Response:
    """Store what a model answered. Feedback that waited for an output joins it; an output without feedback waits for annotation.

    Tool calls, null content beside them and text parts are stored as they come; other parts are refused by name.
    """
    return answer_batch(db, holder, request, body, batch_items(body), parse_completion_item)
