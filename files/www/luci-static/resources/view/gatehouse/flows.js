'use strict';
'require view';
'require gatehouse.bus as bus';
'require gatehouse.graph as graph';
'require gatehouse.grid as grid';
'require gatehouse.words as words';

/*
 * Flows: who talks to whom, what of it is blocked, and blocking and unblocking it.
 *
 * Kept: the nodes and pairs of the last look. Flow records of two nodes are one row and one line, whoever opened
 * the connection and whatever the service.
 */

const lookSeconds = 5;
const recordsMost = 2000;
/* More bubbles than these are no picture any more: the busiest pairs are drawn. */
const bubblesMost = 300;
const linesMost = 600;

function keyOf(one, other) {
	return Math.min(one, other) + ' ' + Math.max(one, other);
}

/* Records of two nodes, in either direction, as one. */
function pairsOf(records) {
	const pairs = new Map();
	records.forEach(function(record) {
		const key = keyOf(record.from, record.to);
		let pair = pairs.get(key);
		if (!pair) {
			pair = { key: key, from: record.from, to: record.to, bytes: 0, packets: 0, last: 0, services: new Set(), blocked: false };
			pairs.set(key, pair);
		}
		pair.bytes += record.bytes;
		pair.packets += record.packets;
		pair.last = Math.max(pair.last, record.last_seen);
		pair.blocked = pair.blocked || record.blocked;
		pair.services.add(words.service(record));
	});
	return Array.from(pairs.values());
}

/* The busiest pairs, as long as their nodes fit into the picture. */
function picked(pairs) {
	const nodes = new Set();
	return pairs.slice().sort(function(left, right) {
		return Number(right.blocked) - Number(left.blocked) || right.bytes - left.bytes;
	}).slice(0, linesMost).filter(function(pair) {
		const more = (nodes.has(pair.from) ? 0 : 1) + (nodes.has(pair.to) ? 0 : 1);
		if (nodes.size + more > bubblesMost)
			return false;
		nodes.add(pair.from);
		nodes.add(pair.to);
		return true;
	});
}

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	load: function() {
		return L.resolveDefault(Promise.all([ bus.nodes(), bus.calls.flows(recordsMost) ]), null);
	},

	render: function(data) {
		const notice = bus.notice();
		const chosen = E('div', { 'class': 'cbi-section', 'style': 'display:none', 'aria-live': 'polite' });
		const count = E('span', {}, [ '' ]);
		const filter = { text: '', node: Number(new URLSearchParams(location.search).get('node')) || 0 };
		let nodes = new Map();
		let pairs = [];
		let blocked = [];
		/* What was chosen in the picture: { node } or { pair }. */
		let choice;

		/* A node may have gone since its flow was seen. */
		function nodeOf(id) {
			return nodes.get(id) || { id: id, kind: 'address', ips: [], domains: [] };
		}

		function titleOf(pair) {
			return words.name(nodeOf(pair.from)) + ' – ' + words.name(nodeOf(pair.to));
		}

		function blockButton(pair) {
			return pair.blocked
				? bus.change(_('Unblock'), 'cbi-button-positive', function() {
					return bus.calls.unblock(pair.from, pair.to).then(look);
				})
				: bus.change(_('Block'), 'cbi-button-negative', function() {
					return bus.calls.block(pair.from, pair.to).then(tellOthers).then(look);
				});
		}

		/* Where an address is shared, a block hits others too, and says so. */
		function tellOthers(answer) {
			const also = (answer.also_hit || []).map(function(id) { return words.name(nodeOf(id)); });
			if (also.length > 0)
				bus.complain(_('They share an address, so this is blocked too: %s').format(also.join(', ')));
		}

		function partyColumn(title, end) {
			return {
				title: title,
				text: function(pair) { return words.name(nodeOf(pair[end])); },
				sort: function(pair) { return words.name(nodeOf(pair[end])); }
			};
		}

		const actions = {
			title: _('Actions'),
			sign: function(pair) { return pair.key + ' ' + pair.blocked; },
			draw: function(pair) { return [ blockButton(pair) ]; }
		};

		const table = grid.create([
			partyColumn(_('From'), 'from'),
			partyColumn(_('To'), 'to'),
			{
				title: _('Services'),
				text: function(pair) {
					const all = Array.from(pair.services).sort(words.compare);
					return all.slice(0, 4).join(', ') + (all.length > 4 ? ' …' : '');
				}
			},
			{
				title: _('Bytes'),
				text: function(pair) { return words.size(pair.bytes); },
				sort: function(pair) { return pair.bytes; },
				downward: true
			},
			{
				title: _('Packets'),
				text: function(pair) { return String(pair.packets); },
				sort: function(pair) { return pair.packets; },
				downward: true
			},
			{
				title: _('Last active'),
				text: function(pair) { return words.ago(pair.last); },
				sort: function(pair) { return pair.last; },
				downward: true
			},
			actions
		], {
			key: function(pair) { return pair.key; },
			by: 5,
			empty: _('Nobody talks to anybody.'),
			matches: matches
		});

		const barred = grid.create([
			partyColumn(_('One'), 'from'),
			partyColumn(_('Other'), 'to'),
			{
				title: _('Hits'),
				text: function(pair) { return pair.hits === undefined ? '–' : String(pair.hits); },
				sort: function(pair) { return pair.hits || 0; },
				downward: true
			},
			{
				title: _('Last hit'),
				text: function(pair) { return words.ago(pair.last_hit); },
				sort: function(pair) { return pair.last_hit || 0; },
				downward: true
			},
			actions
		], { key: function(pair) { return pair.key; }, by: 3, empty: _('No pair is blocked.') });

		const picture = graph.create({
			pick: function(what) {
				choice = what;
				showChoice();
				chosen.scrollIntoView({ block: 'nearest' });
			}
		});

		function matches(pair) {
			if (filter.node && pair.from !== filter.node && pair.to !== filter.node)
				return false;
			return filter.text === '' || words.haystack(nodeOf(pair.from)).includes(filter.text) ||
				words.haystack(nodeOf(pair.to)).includes(filter.text);
		}

		/* What was chosen in the picture, with its pairs to be blocked or not. */
		function showChoice() {
			if (!choice)
				return;
			const its = choice.pair
				? pairs.filter(function(pair) { return pair.key === choice.pair.key; })
				: pairs.filter(function(pair) { return pair.from === choice.node || pair.to === choice.node; });
			const sign = JSON.stringify(its.map(function(pair) { return [ pair.key, titleOf(pair), pair.blocked ]; }));
			chosen.style.display = '';
			if (chosen.getAttribute('data-sign') === sign)
				return;
			chosen.setAttribute('data-sign', sign);
			bus.fill(chosen, [
				E('h3', {}, [ choice.pair ? titleOf(choice.pair) : words.name(nodeOf(choice.node)) ]),
				its.length === 0
					? E('p', {}, [ E('em', {}, [ _('They talk no more.') ]) ])
					: E('ul', {}, its.slice(0, 50).map(function(pair) {
						return E('li', { 'style': 'margin:.25em 0' }, [ titleOf(pair) + ' ', blockButton(pair) ]);
					}))
			]);
		}

		function show(list, answer) {
			nodes = new Map(list.map(function(node) { return [ node.id, node ]; }));
			pairs = pairsOf(answer.flows || []);
			const known = new Map(pairs.map(function(pair) { return [ pair.key, pair ]; }));
			blocked = (answer.blocked || []).map(function(each) {
				return {
					key: keyOf(each.node1, each.node2),
					from: each.node1,
					to: each.node2,
					hits: each.hits,
					last_hit: each.last_hit,
					bytes: 0,
					blocked: true
				};
			});
			table.update(pairs);
			barred.update(blocked);
			draw(known);
			showChoice();
			tell(answer.total);
		}

		/* Blocked pairs are in the picture even if nothing was ever seen of them. */
		function draw(known) {
			const unseen = blocked.filter(function(pair) { return !known.has(pair.key); });
			const drawn = picked(pairs.filter(matches).concat(unseen.filter(matches)));
			const parties = new Map();
			drawn.forEach(function(pair) {
				parties.set(pair.from, nodeOf(pair.from));
				parties.set(pair.to, nodeOf(pair.to));
			});
			picture.update(drawn, parties);
		}

		function tell(total) {
			count.firstChild.data = total === undefined || total <= recordsMost
				? _('%d of %d pairs').format(table.shown(), pairs.length)
				: _('%d of %d pairs, of the latest flows').format(table.shown(), pairs.length);
		}

		function refilter() {
			table.refresh();
			draw(new Map(pairs.map(function(pair) { return [ pair.key, pair ]; })));
			tell();
		}

		const look = bus.watch(function() {
			return Promise.all([ bus.nodes(), bus.calls.flows(recordsMost) ]).then(function(answers) {
				const list = answers[0];
				offerDevices(list);
				show(list, answers[1]);
			});
		}, lookSeconds, notice);

		const search = E('input', {
			'type': 'search',
			'class': 'cbi-input-text',
			'placeholder': _('Name, address or MAC'),
			'aria-label': _('Search'),
			'input': function(event) {
				filter.text = event.target.value.trim().toLowerCase();
				refilter();
			}
		});
		const choiceOfDevice = E('select', {
			'class': 'cbi-input-select',
			'aria-label': _('Device'),
			'change': function(event) {
				filter.node = Number(event.target.value);
				refilter();
			}
		});
		let offered = '';

		/* Devices to choose from, anew only if they or their names changed. */
		function offerDevices(list) {
			const ours = list.filter(words.isOurs).sort(function(left, right) {
				return words.compare(words.name(left), words.name(right));
			});
			const sign = JSON.stringify(ours.map(function(node) { return [ node.id, words.name(node) ]; }));
			if (sign === offered)
				return;
			offered = sign;
			bus.fill(choiceOfDevice, [ E('option', { 'value': '0' }, [ _('All devices') ]) ].concat(ours.map(function(node) {
				return E('option', { 'value': String(node.id) }, [ words.name(node) ]);
			})));
			choiceOfDevice.value = String(filter.node);
			if (choiceOfDevice.value !== String(filter.node))
				choiceOfDevice.value = '0';
		}

		offerDevices(data ? data[0] : []);
		if (data)
			show(data[0], data[1]);
		else
			notice.show(true);

		return E('div', {}, [
			E('h2', {}, [ _('Flows') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Who talks to whom. A blocked pair exchanges no packet any more, running connections included. Choose a line or a bubble to block.')
			]),
			notice.node,
			E('p', {}, [ search, ' ', choiceOfDevice, ' ', count ]),
			E('div', { 'class': 'cbi-section' }, [ picture.node ]),
			chosen,
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Talks') ]),
				E('div', { 'style': 'overflow-x:auto' }, [ table.node ])
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Blocked pairs') ]),
				E('div', { 'style': 'overflow-x:auto' }, [ barred.node ])
			])
		]);
	}
});
