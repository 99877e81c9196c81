"""What every benchmark uses: clocks, counters, facts about the machine, the paper's tables."""
