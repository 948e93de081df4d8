"""What the service counts and measures of itself, and how that is shown to Prometheus.

Counters are plain integers in plain lists; nobody who counts formats, locks or waits. Counters count what this process
did while it was live, from its start, and each batch once it is committed: what a recovery folds again was counted by
whoever did it first. Gauges are the present state, right as soon as a shard is live.

    families.py    numbers by label: gauges, counters, histograms
    catalogue.py   which there are, and what each says
    outputs.py     what the outputs of a batch add to them
    shard.py       one shard's numbers, all of them there at 0 from the start
    service.py     all numbers of a process
    exposition.py  the text that is scraped, rendered a few lines at a time; alone in importing prometheus_client
"""
