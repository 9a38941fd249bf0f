"""Small files in the forms of other products, in words of our own, after the schemas that the importers' docstrings name."""

from __future__ import annotations

from typing import Any

OPEN_WEBUI: list[dict[str, Any]] = [
    {
        "id": "fb-1",
        "user_id": "user-7",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": -1,
            "model_id": "helper:8b",
            "reason": "not_factual",
            "comment": "Wrong month.",
            "tags": ["dates"],
        },
        "meta": {"chat_id": "chat-1", "message_id": "m4", "message_index": 4, "arena": False},
        "snapshot": {
            "chat": {
                "id": "chat-1",
                "chat": {
                    "history": {
                        "currentId": "m4",
                        "messages": {
                            "m1": {"id": "m1", "parentId": None, "role": "user", "content": "When is Easter?"},
                            "m2": {"id": "m2", "parentId": "m1", "role": "assistant", "content": "In spring."},
                            "m3": {"id": "m3", "parentId": "m2", "role": "user", "content": "Which month in 2024?"},
                            "m4": {"id": "m4", "parentId": "m3", "role": "assistant", "content": "April."},
                            "m5": {"id": "m5", "parentId": "m3", "role": "assistant", "content": "March."},
                        },
                    }
                },
            }
        },
        "created_at": 1730000000,
        "updated_at": 1730000060,
    },
    {
        "id": "fb-2",
        "user_id": "user-7",
        "type": "rating",
        "data": {"rating": None},
        "meta": {},
        "snapshot": {"chat": {}},
    },
]

LIBRECHAT: dict[str, Any] = {
    "conversationId": "conv-1",
    "endpoint": "openAI",
    "title": "Bread",
    "messages": [
        {"messageId": "a2", "parentMessageId": "a1", "isCreatedByUser": False, "sender": "Model", "text": "", "model": "m-4",
         "content": [{"type": "text", "text": "An hour "}, {"type": "text", "text": {"value": "at least."}}],
         "feedback": {"rating": "thumbsUp", "tag": {"key": "accurate_reliable"}, "text": "Worked."}, "user": "u1",
         "createdAt": "2025-03-01T10:00:00.000Z"},
        {"messageId": "a1", "parentMessageId": "00000000-0000-0000-0000-000000000000", "isCreatedByUser": True,
         "text": "How long must dough rest?"},
        {"messageId": "a3", "parentMessageId": "a2", "isCreatedByUser": True, "text": "Thanks"},
        {"messageId": "a4", "parentMessageId": "gone", "isCreatedByUser": False, "text": "Bye.",
         "feedback": {"rating": "thumbsDown", "tag": "other"}},
    ],
}  # fmt: skip

LANGFUSE: list[dict[str, Any]] = [
    {"id": "s1", "traceId": "t1", "name": "user-feedback", "value": 1, "dataType": "BOOLEAN", "stringValue": "True",
     "comment": "Good", "timestamp": "2025-05-01T08:00:00.000Z", "source": "API"},
    {"id": "s2", "trace_id": "t1", "observation_id": "o1", "name": "user-feedback", "value": 0, "data_type": "NUMERIC",
     "timestamp": "2025-05-01 08:00:00.000000"},
    {"id": "s3", "traceId": "t1", "name": "similarity", "value": 0.83, "dataType": "NUMERIC"},
    {"id": "s4", "traceId": "t9", "name": "user-feedback", "value": 1, "dataType": "NUMERIC"},
    {"id": "t1", "name": "chat", "userId": "u-3", "sessionId": "sess-1", "input": {"messages": [{"role": "user",
     "content": "Is tea dry?"}]}, "output": {"role": "assistant", "content": "Before it is brewed."}},
    {"id": "o1", "traceId": "t1", "type": "GENERATION", "model": "m-2", "input": "Is tea dry?", "output": "No."},
]  # fmt: skip

LANGSMITH: list[dict[str, Any]] = [
    {"id": "r1", "run_type": "llm", "name": "ChatModel", "trace_id": "r1", "inputs": {"messages": [[
        {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "SystemMessage"], "kwargs":
         {"content": "Be kind.", "type": "system"}},
        {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "HumanMessage"], "kwargs":
         {"content": "Name a tree.", "type": "human"}}]]},
     "outputs": {"generations": [[{"text": "Oak.", "message": {"lc": 1, "id": ["langchain", "AIMessage"],
                                   "kwargs": {"content": "Oak."}}}]]},
     "extra": {"metadata": {"ls_model_name": "m-5", "thread_id": "th-1"}}},
    {"id": "r2", "run_type": "chain", "inputs": {"question": "Name a bird."}, "outputs": {"answer": "Wren."}, "extra": {}},
    {"id": "f1", "run_id": "r1", "key": "thumb", "score": 1.0, "value": None, "comment": None,
     "created_at": "2025-06-01T00:00:00+00:00", "feedback_source": {"type": "app", "user_id": "ann"}},
    {"id": "f2", "run_id": "r2", "key": "thumb", "score": 0, "comment": "Too small.", "created_at": "2025-06-01T00:00:00",
     "correction": {"answer": "Eagle."}},
    {"id": "f3", "run_id": "r2", "key": "length", "score": 0.4},
]  # fmt: skip

ARGILLA: list[dict[str, Any]] = [
    {"id": "rec-1", "fields": {"question": "Is ice warm?", "response": "No."}, "metadata": {"model": "m-1", "run": 3},
     "suggestions": {}, "responses": {"quality": [{"value": "good", "user_id": "u1"}, {"value": "bad", "user_id": "u2"}],
     "why": [{"value": "Short.", "user_id": "u1"}]}, "vectors": {}, "_server_id": "x"},
    {"id": "rec-2", "fields": {"question": "Is it?", "response": "Maybe."}, "metadata": {}, "suggestions": {}, "responses": {}},
    {"id": "rec-3", "fields": {"question": "And?", "response": "So."}, "responses": {"stars": [{"value": 4, "user_id": "u1"}]}},
]  # fmt: skip

LABEL_STUDIO: list[dict[str, Any]] = [
    {"id": 11, "data": {"prompt": "Spell cat.", "response": "c-a-t", "topic": "spelling"}, "annotations": [
        {"id": 1, "completed_by": {"id": 5, "email": "ann@example.org"}, "was_cancelled": False, "result": [
            {"from_name": "verdict", "to_name": "text", "type": "choices", "value": {"choices": ["Helpful"]}},
            {"from_name": "note", "to_name": "text", "type": "textarea", "value": {"text": ["Clear."]}}],
         "updated_at": "2025-02-01T00:00:00.000000Z"},
        {"id": 2, "completed_by": 6, "was_cancelled": True, "result": []},
        ], "predictions": []},
    {"id": 12, "data": {"prompt": "Spell dog.", "response": "d-g"}, "annotations": [
        {"id": 3, "completed_by": 6, "was_cancelled": False, "result": [
            {"from_name": "verdict", "type": "choices", "value": {"choices": ["Purple"]}}]}]},
]  # fmt: skip

FIXTURES: dict[str, Any] = {
    "open_webui": OPEN_WEBUI,
    "librechat": LIBRECHAT,
    "langfuse": LANGFUSE,
    "langsmith": LANGSMITH,
    "argilla": ARGILLA,
    "label_studio": LABEL_STUDIO,
}
