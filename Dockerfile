# An image with the book and its library: `docker build -t vcae_nb:0.1.0 .`
# `docker run --rm -v vcae:/vcae vcae_nb:0.1.0 run toy_mog` trains; runs, data and results are on the volume.
FROM python:3.12-slim-bookworm

WORKDIR /book
COPY constraints.txt settings.ini setup.py README.md ./
COPY vcae_nb vcae_nb
RUN pip install --no-cache-dir --constraint constraints.txt --editable .
COPY _quarto.yml CITATION.cff LICENSE ./
COPY nbs nbs
COPY results results

ENV VCAE_RUNS=/vcae/runs VCAE_DATA=/vcae/data VCAE_RESULTS=/vcae/results
RUN useradd --uid 1000 vcae && mkdir /vcae && chown -R vcae /vcae /book
USER vcae
VOLUME /vcae
ENTRYPOINT ["vcae"]
CMD ["--help"]
