'use strict';
'require view';
'require gatehouse.bus as bus';
'require gatehouse.grid as grid';
'require gatehouse.words as words';

/*
 * Neighbours: who answers for which address on which link, who does not, and addresses that several claim.
 *
 * Kept: what is searched for.
 */

const lookSeconds = 5;

function keyOf(entry) {
	return entry.device + ' ' + entry.address;
}

/* Milliseconds since something, as people read them. */
function age(ms) {
	return ms === undefined ? '–' : words.span(Math.floor(ms / 1000));
}

const states = {
	permanent: _('permanent'),
	reachable: _('reachable'),
	stale: _('not asked lately'),
	delay: _('about to be asked'),
	probe: _('being asked'),
	noarp: _('never asked')
};

const sources = {
	solicited: _('answered'),
	probed: _('asked by gatehouse'),
	learned: _('heard'),
	permanent: _('permanent')
};

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	load: function() {
		return L.resolveDefault(Promise.all([ bus.calls.neighbours(), bus.calls.conflicts() ]), null);
	},

	render: function(data) {
		const notice = bus.notice();
		const count = E('span', {}, [ '' ]);
		const answer = E('p', { 'aria-live': 'polite', 'style': 'overflow-wrap:anywhere' }, [ '' ]);
		let text = '';
		let total = 0;

		const look = bus.watch(function() {
			return Promise.all([ bus.calls.neighbours(), bus.calls.conflicts() ]).then(show);
		}, lookSeconds, notice);

		/* Asks again, past what is known; says who answered. */
		function resolve(address, device) {
			return bus.calls.resolve(address, device, true).then(function(found) {
				answer.firstChild.data = _('%s on %s is at %s.').format(found.address, found.device, found.lladdr);
				return look();
			}, function(error) {
				answer.firstChild.data = _('Nobody answers for %s on %s.').format(address, device);
				bus.complain(error);
			});
		}

		const table = grid.create([
			{ title: _('Address'), text: function(entry) { return entry.address; }, sort: function(entry) { return entry.address; } },
			{ title: _('Link'), text: function(entry) { return entry.device; }, sort: function(entry) { return entry.device; } },
			{ title: _('MAC'), text: function(entry) { return entry.lladdr || '–'; }, sort: function(entry) { return entry.lladdr || ''; } },
			{
				title: _('State'),
				text: function(entry) { return states[entry.state] || entry.state; },
				sort: function(entry) { return entry.state; }
			},
			{
				title: _('Known'),
				sign: function(entry) { return JSON.stringify([ entry.source, entry.verified, entry.router, entry.pinned ]); },
				draw: function(entry) {
					const marks = [ sources[entry.source] || entry.source ];
					const mark = function(label, title) {
						marks.push(' ', E('span', { 'class': 'ifacebadge', 'title': title }, [ label ]));
					};
					if (entry.verified)
						mark(_('verified'), _('It has answered a question of ours.'));
					if (entry.router)
						mark(_('router'), _('It forwards packets of others.'));
					if (entry.pinned)
						mark(_('pinned'), _('Nobody else may take this address.'));
					return marks;
				},
				sort: function(entry) { return entry.source; }
			},
			{
				title: _('Confirmed'),
				text: function(entry) { return age(entry.age); },
				sort: function(entry) { return entry.age === undefined ? 1e15 : entry.age; }
			},
			{
				title: _('Actions'),
				sign: function() { return ''; },
				draw: function(entry) {
					return [ E('div', { 'style': 'white-space:nowrap' }, [
						bus.button(_('Ask'), 'cbi-button-action', function() { return resolve(entry.address, entry.device); }),
						' ',
						bus.change(_('Forget'), 'cbi-button-negative', function() {
							return bus.calls.forgetNeighbour(entry.address, entry.device).then(look);
						})
					]) ];
				}
			}
		], {
			key: keyOf,
			by: 0,
			empty: _('No neighbour is known.'),
			matches: function(entry) {
				return text === '' || [ entry.address, entry.device, entry.lladdr ].join('\n').toLowerCase().includes(text);
			}
		});

		const disputed = grid.create([
			{ title: _('Address'), text: function(each) { return each.address; }, sort: function(each) { return each.address; } },
			{ title: _('Link'), text: function(each) { return each.device; }, sort: function(each) { return each.device; } },
			{ title: _('Claimed by'), text: function(each) { return each.lladdrs.join(', '); } },
			{ title: _('Answering'), text: function(each) { return each.answering.join(', ') || '–'; } },
			{ title: _('Claims'), text: function(each) { return String(each.count); }, sort: function(each) { return each.count; }, downward: true },
			{ title: _('Last claim'), text: function(each) { return age(each.last_age); }, sort: function(each) { return each.last_age; } }
		], { key: keyOf, by: 0, empty: _('No address is claimed by several.') });

		const silent = grid.create([
			{ title: _('Address'), text: function(each) { return each.address; }, sort: function(each) { return each.address; } },
			{ title: _('Link'), text: function(each) { return each.device; }, sort: function(each) { return each.device; } },
			{ title: _('Asked again in'), text: function(each) { return age(each.retry_after); }, sort: function(each) { return each.retry_after; } }
		], { key: keyOf, by: 0, empty: _('Whoever was asked for has answered.') });

		function show(answers) {
			table.update(answers[0].neighbours || []);
			silent.update(answers[0].failed || []);
			disputed.update(answers[1]);
			total = answers[0].total || 0;
			tell();
		}

		function tell() {
			count.firstChild.data = _('%d of %d neighbours').format(table.shown(), total);
		}

		const search = E('input', {
			'type': 'search',
			'class': 'cbi-input-text',
			'placeholder': _('Address, link or MAC'),
			'aria-label': _('Search'),
			'input': function(event) {
				text = event.target.value.trim().toLowerCase();
				table.refresh();
				tell();
			}
		});
		const field = function(label, name) {
			return E('input', {
				'type': 'text',
				'class': 'cbi-input-text',
				'name': name,
				'placeholder': label,
				'aria-label': label,
				'maxlength': '64'
			});
		};
		const address = field(_('Address'), 'address');
		const link = field(_('Link, such as br-lan'), 'device');

		if (data)
			show(data);
		else
			notice.show(true);

		return E('div', {}, [
			E('h2', {}, [ _('Neighbours') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Who answers for an address on a link of this router.')
			]),
			notice.node,
			E('div', { 'class': 'cbi-section' }, [
				E('p', {}, [
					address, ' ', link, ' ',
					bus.button(_('Who has it?'), 'cbi-button-action', function() {
						return resolve(address.value.trim(), link.value.trim());
					})
				]),
				answer
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('p', {}, [ search, ' ', count ]),
				E('div', { 'style': 'overflow-x:auto' }, [ table.node ])
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('In dispute') ]),
				E('div', { 'style': 'overflow-x:auto' }, [ disputed.node ])
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Silent') ]),
				E('div', { 'style': 'overflow-x:auto' }, [ silent.node ])
			])
		]);
	}
});
