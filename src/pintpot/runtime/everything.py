"""Brings in all that a run of a language model uses, so that its memory is one number, known before anything loads."""

import jinja2.sandbox
import tokenizers

import pintpot._native
import pintpot.model.tokens.chat
import pintpot.model.tokens.template_filters
import pintpot.model.tokens.template_meter
import pintpot.model.tokens.template_sandbox
import pintpot.nets._rope
import pintpot.runtime.bound
import pintpot.runtime.engine
import pintpot.runtime.memory
import pintpot.runtime.session
import pintpot.techniques

__all__ = ["jinja2", "pintpot", "tokenizers"]

pintpot.techniques.classes()
