FROM python:3.12-slim

# A compiler is needed by torch.compile only; the rest comes as wheels.
RUN useradd --create-home --uid 10001 kto && install -d -o kto -g kto /data /models
WORKDIR /srv
COPY requirements.lock ./
RUN pip install --no-cache-dir -r requirements.lock
COPY pyproject.toml setup.py README.md ./
COPY app app
COPY worker worker
COPY templates templates
COPY static static
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
USER kto
VOLUME /data
EXPOSE 8000
CMD ["kto", "web"]
