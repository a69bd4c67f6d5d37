#!/bin/sh
# The firewall's include, sourced after each of its starts and reloads: puts the blocks in force again, which a flush
# may have taken, and what it has to let pass of isolated services. Loading them over rules that stand changes nothing.

sh /usr/lib/gatehouse/boot.sh "$(uci -q get gatehouse.main.state_dir || echo /etc/gatehouse)"
sh /usr/lib/gatehouse/segments.sh put
