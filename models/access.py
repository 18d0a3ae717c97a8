"""Who may do what: access tokens and role bindings, and the only code that writes them.

A token's secret is never stored, only its SHA-256. No slow hash is needed: the secret is 256 random bits, which nobody
guesses however fast the hash is, and a slow one would be paid by every request (OWASP's advice on slow hashes is about
what people choose). ``id`` and ``last4`` are what may be shown.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker

from models.io_points import io_point
from models.schema import Base
from models.store import Clock, utc_now
from models.store.base import changed


class Token(Base):
    """One access token. Its principal is ``token:NAME``; a name is free again once its token is revoked."""

    __tablename__ = "tokens"
    __table_args__ = (
        sa.Index(
            "uq_tokens_live_name",
            "name",
            unique=True,
            sqlite_where=sa.text("revoke_time IS NULL"),
            postgresql_where=sa.text("revoke_time IS NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)  # public: names the token in lists, carries nothing of the secret
    name: Mapped[str]
    secret_sha256: Mapped[str] = mapped_column(unique=True)
    last4: Mapped[str]
    create_time: Mapped[dt.datetime]
    expire_time: Mapped[dt.datetime | None]
    revoke_time: Mapped[dt.datetime | None]


class RoleBinding(Base):
    """A principal has a role in a project; ``*`` is every project, also those to come."""

    __tablename__ = "role_bindings"
    principal: Mapped[str] = mapped_column(primary_key=True)  # token:NAME or user:CLAIM
    project: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    create_time: Mapped[dt.datetime]


class TokenExists(Exception):
    """A token of that name exists and is not revoked."""


class BindingExists(Exception):
    """The principal has that role there already."""


def secret_hash(secret: str) -> str:
    """How a secret is stored and looked up."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def token_principal(name: str) -> str:
    """What a token's bindings are bound to."""
    return f"token:{name}"


class AccessStore:
    """Thread-safe; one instance per process."""

    def __init__(self, engine: Engine, *, clock: Clock = utc_now) -> None:
        self.clock = clock
        self._engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @io_point("access.find_token")
    def find_token(self, secret: str) -> Token | None:
        """The token of this secret, if it is neither revoked nor expired."""
        with self._reader() as session:
            row = session.scalar(
                sa.select(Token).where(Token.secret_sha256 == secret_hash(secret), Token.revoke_time.is_(None))
            )
        return row if row is not None and (row.expire_time is None or self.clock() < row.expire_time) else None

    @io_point("access.bindings")
    def bindings(self, principal: str | None = None) -> Sequence[RoleBinding]:
        """The bindings of one principal, or of all."""
        query = sa.select(RoleBinding).order_by(RoleBinding.principal, RoleBinding.project, RoleBinding.role)
        if principal is not None:
            query = query.where(RoleBinding.principal == principal)
        with self._reader() as session:
            return session.scalars(query).all()

    @io_point("access.tokens")
    def tokens(self) -> Sequence[Token]:
        """All tokens, also revoked ones, newest first."""
        with self._reader() as session:
            return session.scalars(sa.select(Token).order_by(Token.create_time.desc(), Token.id)).all()

    @io_point("access.create_token")
    def create_token(self, token: Token, roles: Sequence[tuple[str, str]] = ()) -> None:
        """Insert the token and its (project, role) bindings in one transaction. Raises: TokenExists."""
        try:
            with self._sessions.begin() as session:
                session.add(token)
                for project, role in roles:
                    session.add(self._binding(token_principal(token.name), project, role))
        except sa.exc.IntegrityError as error:
            raise TokenExists(token.name) from error

    @io_point("access.revoke_token")
    def revoke_token(self, token: str) -> Token | None:
        """End the live token with this id or name and drop its bindings, so that its name can be given away again."""
        with self._sessions.begin() as session:
            row = session.scalar(
                sa.select(Token)
                .where(sa.or_(Token.id == token, Token.name == token), Token.revoke_time.is_(None))
                .with_for_update()
            )
            if row is not None:
                row.revoke_time = self.clock()
                session.execute(sa.delete(RoleBinding).where(RoleBinding.principal == token_principal(row.name)))
            return row

    @io_point("access.grant")
    def grant(self, principal: str, project: str, role: str) -> None:
        """Add a binding. Raises: BindingExists."""
        try:
            with self._sessions.begin() as session:
                session.add(self._binding(principal, project, role))
        except sa.exc.IntegrityError as error:
            raise BindingExists(principal) from error

    @io_point("access.revoke_role")
    def revoke_role(self, principal: str, project: str, role: str) -> bool:
        """Remove a binding; whether there was one."""
        with self._sessions.begin() as session:
            gone = sa.delete(RoleBinding).where(
                RoleBinding.principal == principal, RoleBinding.project == project, RoleBinding.role == role
            )
            return changed(session.execute(gone)) == 1

    def _binding(self, principal: str, project: str, role: str) -> RoleBinding:
        return RoleBinding(principal=principal, project=project, role=role, create_time=self.clock())

    @contextmanager
    def _reader(self) -> Iterator[Session]:
        with self._engine.connect().execution_options(clonejob_read_only=True) as connection:
            with Session(connection, expire_on_commit=False) as session:
                yield session
