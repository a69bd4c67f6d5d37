'use strict';
'require view';
'require dom';
'require ui';
'require gatehouse.bus as bus';
'require gatehouse.grid as grid';
'require gatehouse.spark as spark';
'require gatehouse.words as words';

/*
 * Devices: who is on the network, how busy they are, and what may be done about them.
 *
 * Kept: by node, its counters at the last few looks, for the rate; its last day, which is asked for when its row
 * comes into sight, and again when a quarter of an hour has passed.
 */

const lookSeconds = 3;
/* Looks that a rate is the mean of: counters grow in steps. */
const looksKept = 4;
const onlineSeconds = 300;
const dayMs = 15 * 60 * 1000;
/* Days that are asked for at once. */
const daysAtOnce = 24;

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	load: function() {
		return L.resolveDefault(bus.nodes('ours'), null);
	},

	render: function(nodes) {
		const looks = new Map();
		const days = new Map();
		const inSight = new Set();
		const filter = { text: '', kind: 'all' };
		const notice = bus.notice();
		const count = E('span', {}, [ '' ]);
		let all = [];

		const watcher = new IntersectionObserver(function(entries) {
			entries.forEach(function(entry) {
				const id = Number(entry.target.getAttribute('data-key'));
				if (entry.isIntersecting)
					inSight.add(id);
				else
					inSight.delete(id);
			});
			askDays();
		});

		function isOnline(node) {
			return Date.now() / 1000 - node.lastseen < onlineSeconds;
		}

		const kinds = {
			all: function() { return true; },
			online: isOnline,
			blocked: function(node) { return node.is_blocked === true; },
			private: function(node) { return node.randomised_mac === true; },
			pinned: function(node) { return node.pinned === true; }
		};

		/* Bytes per second, in and out. */
		function rateOf(node) {
			const seen = looks.get(node.id);
			const first = seen[0];
			const last = seen[seen.length - 1];
			const seconds = (last.at - first.at) / 1000;
			if (seconds <= 0)
				return { in: 0, out: 0 };
			return {
				in: Math.max(0, last.in - first.in) / seconds,
				out: Math.max(0, last.out - first.out) / seconds
			};
		}

		function note(list) {
			const at = performance.now();
			const known = new Set();
			list.forEach(function(node) {
				const seen = looks.get(node.id) || [];
				seen.push({ at: at, in: node.bytes_in, out: node.bytes_out });
				if (seen.length > looksKept)
					seen.shift();
				looks.set(node.id, seen);
				known.add(node.id);
			});
			Array.from(looks.keys()).forEach(function(id) {
				if (!known.has(id)) {
					looks.delete(id);
					days.delete(id);
				}
			});
		}

		function badge(text, title) {
			return E('span', { 'class': 'ifacebadge', 'title': title }, [ text ]);
		}

		function drawName(node) {
			const parts = [ E('strong', {}, [ words.name(node) ]) ];
			if (node.is_blocked)
				parts.push(' ', badge(_('blocked'), _('No packet of this device passes.')));
			if (node.is_excepted)
				parts.push(' ', badge(_('always allowed'), _('It is on the list allow, which beats all blocks.')));
			if (node.randomised_mac)
				parts.push(' ', badge(_('private'), _('The device made this MAC up, and may come back with another.')));
			if (node.pinned)
				parts.push(' ', badge(_('pinned'), _('It is kept, however long it stays away.')));
			return parts;
		}

		function drawAddresses(node) {
			const shown = node.ips.slice(0, 2);
			const parts = [];
			shown.forEach(function(address, at) {
				if (at > 0)
					parts.push(E('br'));
				parts.push(address);
			});
			if (node.ips.length > shown.length)
				parts.push(E('br'), E('small', { 'title': node.ips.join('\n') }, [
					_('and %d more').format(node.ips.length - shown.length)
				]));
			return parts;
		}

		function drawActions(node) {
			const block = node.is_blocked
				? bus.change(_('Unblock'), 'cbi-button-positive', function() {
					return bus.calls.unlistNode('block', node.id).then(look);
				})
				: bus.change(_('Block'), 'cbi-button-negative', function() {
					return bus.calls.listNode('block', node.id).then(look);
				});
			const more = bus.button(_('More…'), 'cbi-button-action', function() {
				return openDetails(node.id);
			});
			return [ E('div', { 'style': 'white-space:nowrap' }, [ block, ' ', more ]) ];
		}

		const table = grid.create([
			{
				title: _('Device'),
				sign: function(node) {
					return JSON.stringify([ words.name(node), node.is_blocked, node.is_excepted, node.randomised_mac, node.pinned ]);
				},
				draw: drawName,
				sort: words.name
			},
			{
				title: _('Addresses'),
				sign: function(node) { return node.ips.join(' '); },
				draw: drawAddresses,
				sort: function(node) { return node.ips[0] || ''; }
			},
			{
				title: _('MAC'),
				text: function(node) { return node.mac || '–'; },
				sort: function(node) { return node.mac || ''; }
			},
			{
				title: _('Rate'),
				text: function(node) {
					const rate = rateOf(node);
					return words.both(rate.in, rate.out, words.rate);
				},
				sort: function(node) {
					const rate = rateOf(node);
					return rate.in + rate.out;
				},
				downward: true
			},
			{
				title: _('Today'),
				text: function(node) {
					return words.both(node.today_in || 0, node.today_out || 0, words.size);
				},
				sort: function(node) { return (node.today_in || 0) + (node.today_out || 0); },
				downward: true
			},
			{
				title: _('Last 24 hours'),
				sign: function(node) {
					const day = days.get(node.id);
					return day && day.series ? String(day.at) : '';
				},
				draw: function(node) {
					const day = days.get(node.id);
					return day && day.series ? [ spark.draw(day.series, _('Traffic of the last 24 hours')) ] : [];
				}
			},
			{
				title: _('Last seen'),
				text: function(node) { return words.ago(node.lastseen); },
				sort: function(node) { return node.lastseen; },
				downward: true
			},
			{
				title: _('Actions'),
				sign: function(node) { return String(node.is_blocked === true); },
				draw: drawActions
			}
		], {
			key: function(node) { return String(node.id); },
			by: 0,
			empty: _('No device to show.'),
			matches: function(node) {
				return kinds[filter.kind](node) && (filter.text === '' || words.haystack(node).includes(filter.text));
			},
			made: function(element) { watcher.observe(element); },
			dropped: function(element, key) {
				watcher.unobserve(element);
				inSight.delete(Number(key));
			}
		});

		function tell() {
			count.firstChild.data = _('%d of %d devices').format(table.shown(), all.length);
		}

		function show(list) {
			all = list;
			note(all);
			table.update(all);
			tell();
		}

		/* Asks for the days of rows in sight that have none, or an old one. */
		function askDays() {
			const now = Date.now();
			const wanted = Array.from(inSight).filter(function(id) {
				const day = days.get(id);
				return looks.has(id) && (!day || now - day.at > dayMs);
			}).slice(0, daysAtOnce);
			if (wanted.length === 0)
				return;
			wanted.forEach(function(id) {
				const before = days.get(id);
				days.set(id, { at: now, series: before && before.series });
			});
			Promise.all(wanted.map(function(id) {
				return bus.calls.series(id).then(function(series) {
					if (looks.has(id))
						days.set(id, { at: now, series: series });
				}, function() {
					/* It has gone meanwhile, or nobody answers, which the next look shows. */
					days.delete(id);
				});
			})).then(function() {
				table.refresh();
				if (wanted.length === daysAtOnce)
					askDays();
			});
		}

		const look = bus.watch(function() {
			return bus.nodes('ours').then(function(list) {
				show(list);
				askDays();
			});
		}, lookSeconds, notice);

		/* What is known of one device, and everything else that may be done about it. */
		function openDetails(id) {
			return bus.calls.get(id).then(function(node) {
				const others = all.filter(function(each) { return each.id !== node.id; }).sort(function(left, right) {
					return words.compare(words.name(left), words.name(right));
				});
				drawDetails(node, others, function() {
					ui.hideModal();
					return look();
				});
			});
		}

		if (nodes)
			show(nodes);
		else
			notice.show(true);

		const search = E('input', {
			'type': 'search',
			'class': 'cbi-input-text',
			'placeholder': _('Name, address or MAC'),
			'aria-label': _('Search'),
			'input': function(event) {
				filter.text = event.target.value.trim().toLowerCase();
				table.refresh();
				tell();
			}
		});
		const choice = E('select', {
			'class': 'cbi-input-select',
			'aria-label': _('Filter'),
			'change': function(event) {
				filter.kind = event.target.value;
				table.refresh();
				tell();
			}
		}, [
			E('option', { 'value': 'all' }, [ _('All') ]),
			E('option', { 'value': 'online' }, [ _('Seen in the last 5 minutes') ]),
			E('option', { 'value': 'blocked' }, [ _('Blocked') ]),
			E('option', { 'value': 'private' }, [ _('With a private MAC') ]),
			E('option', { 'value': 'pinned' }, [ _('Pinned') ])
		]);

		return E('div', {}, [
			E('h2', {}, [ _('Devices') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Every device on the network is one row, whatever addresses it has. A blocked device neither sends nor receives, running connections included.')
			]),
			notice.node,
			E('div', { 'class': 'cbi-section' }, [
				E('p', {}, [ search, ' ', choice, ' ', count ]),
				E('div', { 'style': 'overflow-x:auto' }, [ table.node ])
			])
		]);
	}
});

function field(title, children) {
	return E('div', { 'class': 'cbi-value' }, [
		E('label', { 'class': 'cbi-value-title' }, [ title ]),
		E('div', { 'class': 'cbi-value-field' }, [].concat(children))
	]);
}

function drawDetails(node, others, done) {
	const act = function(label, style, call) {
		return bus.change(label, style, function() {
			return call().then(done);
		});
	};
	const name = E('input', { 'type': 'text', 'class': 'cbi-input-text', 'maxlength': '128', 'value': node.name || '' });
	const other = E('select', { 'class': 'cbi-input-select' }, others.map(function(each) {
		return E('option', { 'value': String(each.id) }, [ words.name(each) + (each.mac ? ' (' + each.mac + ')' : '') ]);
	}));
	const facts = [
		field(_('Name'), [
			name, ' ',
			act(_('Rename'), 'cbi-button-save', function() { return bus.calls.rename(node.id, name.value.trim()); })
		]),
		field(_('MAC'), [ (node.macs || []).map(function(each) { return each.mac; }).join(', ') || '–' ]),
		field(_('Addresses'), [ list((node.addresses || []).map(function(each) {
			return each.shared_with
				? _('%s, by %s, shared with %d more').format(each.address, each.source, each.shared_with.length)
				: _('%s, by %s').format(each.address, each.source);
		})) ]),
		field(_('Names'), [ list((node.names || []).map(function(each) {
			return _('%s, by %s').format(each.name, each.source);
		})) ]),
		field(_('First seen'), [ words.ago(node.firstseen) ])
	];
	if (node.conflicts)
		facts.push(field(_('Claimed by others'), [ list(node.conflicts.map(function(each) {
			return _('%s, by %s, %s').format(each.address, each.mac, words.ago(each.lastseen));
		})) ]));
	facts.push(field(_('Keep'), [
		node.pinned
			? act(_('Unpin'), 'cbi-button-neutral', function() { return bus.calls.pin(node.id, false); })
			: act(_('Pin'), 'cbi-button-neutral', function() { return bus.calls.pin(node.id, true); })
	]));
	if (others.length > 0)
		facts.push(field(_('The same device as'), [
			other, ' ',
			act(_('Merge'), 'cbi-button-action', function() { return bus.calls.merge(Number(other.value), node.id); })
		]));
	if (node.aliases && node.aliases.length > 0)
		facts.push(field(_('Merged from'), node.aliases.map(function(alias) {
			return act(_('Split off #%d').format(alias), 'cbi-button-reset', function() { return bus.calls.split(alias); });
		})));
	ui.showModal([ words.name(node) ], facts.concat([
		E('div', { 'class': 'right' }, [
			act(_('Forget'), 'cbi-button-negative', function() { return bus.calls.forget(node.id); }), ' ',
			E('a', { 'class': 'btn cbi-button', 'href': L.url('admin/services/gatehouse/flows') + '?node=' + node.id }, [ _('Flows') ]), ' ',
			E('button', { 'type': 'button', 'class': 'btn cbi-button', 'click': ui.hideModal }, [ _('Close') ])
		])
	]));
}

function list(texts) {
	return E('ul', { 'style': 'margin:0;overflow-wrap:anywhere' }, texts.map(function(text) { return E('li', {}, [ text ]); }));
}
