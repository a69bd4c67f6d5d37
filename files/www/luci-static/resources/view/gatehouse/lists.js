'use strict';
'require view';
'require gatehouse.bus as bus';
'require gatehouse.grid as grid';
'require gatehouse.words as words';

/*
 * Lists: what is blocked, ignored and allowed as a whole, be it a node, an address or a prefix.
 *
 * Kept: by list its table. The entries that were hit last come with their hits.
 */

const lookSeconds = 5;

const lists = [
	{ name: 'block', title: _('Block'), text: _('No packet from or to these passes.') },
	{ name: 'ignore', title: _('Ignore'), text: _('What these say and hear is passed on, but not shown or published.') },
	{ name: 'allow', title: _('Allow'), text: _('These are never blocked: this list beats the others and all blocked pairs.') }
];

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	load: function() {
		return L.resolveDefault(Promise.all([ bus.nodes(), bus.calls.lists() ]), null);
	},

	render: function(data) {
		const notice = bus.notice();
		let nodes = new Map();

		const look = bus.watch(function() {
			return Promise.all([ bus.nodes(), bus.calls.lists() ]).then(show);
		}, lookSeconds, notice);

		function titleOf(entry) {
			if (entry.node === undefined)
				return entry.address;
			const node = nodes.get(entry.node);
			return node ? words.name(node) : '#' + entry.node;
		}

		const tables = lists.map(function(list) {
			return grid.create([
				{ title: _('What'), text: titleOf, sort: titleOf },
				{
					title: _('Kind'),
					text: function(entry) { return entry.node === undefined ? _('Address or prefix') : _('Node'); },
					sort: function(entry) { return entry.node === undefined ? 1 : 0; }
				},
				{
					title: _('Hits'),
					text: function(entry) { return String(entry.hits || 0); },
					sort: function(entry) { return entry.hits || 0; },
					downward: true
				},
				{
					title: _('Last hit'),
					text: function(entry) { return words.ago(entry.last_hit); },
					sort: function(entry) { return entry.last_hit || 0; },
					downward: true
				},
				{ title: _('Set by'), text: function(entry) { return entry.by || '–'; } },
				{
					title: _('Actions'),
					sign: function() { return ''; },
					draw: function(entry) {
						return [ bus.change(_('Remove'), 'cbi-button-remove', function() {
							return (entry.node === undefined
								? bus.calls.unlistAddress(list.name, entry.address)
								: bus.calls.unlistNode(list.name, entry.node)
							).then(tellOthers).then(look);
						}) ];
					}
				}
			], { key: function(entry) { return entry.key; }, by: 0, empty: _('Nothing is on this list.') });
		});

		/* An address that a prefix still covers stays blocked, which would surprise. */
		function tellOthers(answer) {
			if (answer.still_listed_by)
				bus.complain(_('It is still on the list by %s.').format(answer.still_listed_by.join(', ')));
		}

		function entriesOf(members) {
			const hits = new Map();
			(members.hits || []).forEach(function(each) {
				hits.set(each.node === undefined ? each.address : '#' + each.node, each);
			});
			const entry = function(key, what) {
				return Object.assign({ key: key }, hits.get(key), what);
			};
			return (members.nodes || []).map(function(id) { return entry('#' + id, { node: id }); })
				.concat((members.prefixes || []).map(function(prefix) { return entry(prefix, { address: prefix }); }));
		}

		/* One place to choose a device for each list, and one to type an address. */
		const forms = lists.map(function(list) {
			const choice = E('select', { 'class': 'cbi-input-select', 'aria-label': _('Device') });
			const address = E('input', {
				'type': 'text',
				'class': 'cbi-input-text',
				'placeholder': _('Address or prefix'),
				'aria-label': _('Address or prefix'),
				'maxlength': '64'
			});
			return {
				choice: choice,
				offered: '',
				node: E('p', {}, [
					choice, ' ',
					bus.change(_('Add device'), 'cbi-button-add', function() {
						return bus.calls.listNode(list.name, Number(choice.value)).then(look);
					}),
					' ', address, ' ',
					bus.change(_('Add address'), 'cbi-button-add', function() {
						var said = address.value;
						return bus.calls.listAddress(list.name, said.trim()).then(function() {
							// Perhaps the next one is being written already.
							if (address.value === said)
								address.value = '';
							return look();
						});
					})
				])
			};
		});

		function offerDevices(form) {
			const ours = Array.from(nodes.values()).filter(words.isOurs).sort(function(left, right) {
				return words.compare(words.name(left), words.name(right));
			});
			const sign = JSON.stringify(ours.map(function(node) { return [ node.id, words.name(node) ]; }));
			if (sign === form.offered)
				return;
			form.offered = sign;
			const before = form.choice.value;
			bus.fill(form.choice, ours.map(function(node) {
				return E('option', { 'value': String(node.id) }, [ words.name(node) ]);
			}));
			if (nodes.has(Number(before)))
				form.choice.value = before;
		}

		function show(answers) {
			nodes = new Map(answers[0].map(function(node) { return [ node.id, node ]; }));
			lists.forEach(function(list, at) {
				tables[at].update(entriesOf(answers[1][list.name] || {}));
				offerDevices(forms[at]);
			});
		}

		if (data)
			show(data);
		else
			notice.show(true);

		return E('div', {}, [
			E('h2', {}, [ _('Lists') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Devices, addresses and prefixes that are treated alike towards everybody.')
			]),
			notice.node
		].concat(lists.map(function(list, at) {
			return E('div', { 'class': 'cbi-section', 'data-list': list.name }, [
				E('h3', {}, [ list.title ]),
				E('p', {}, [ list.text ]),
				E('div', { 'style': 'overflow-x:auto' }, [ tables[at].node ]),
				forms[at].node
			]);
		})));
	}
});
