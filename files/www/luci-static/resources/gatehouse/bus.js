'use strict';
'require baseclass';
'require dom';
'require poll';
'require rpc';
'require ui';

/*
 * What the pages ask of the agent, and how they say that it does not answer.
 *
 * Keeps nothing but the notice. Texts from the network go into arrays of children only: LuCI takes a bare string
 * for markup.
 */

/* As many nodes as are asked for at once: a message on the bus is bounded. */
const pageSize = 500;

function declare(object, method, params, expect) {
	return rpc.declare({ object: object, method: method, params: params, expect: expect || { '': {} }, reject: true });
}

const calls = {
	list: declare('gatehouse.nodes', 'list', [ 'after', 'limit', 'kind' ]),
	get: declare('gatehouse.nodes', 'get', [ 'node' ]),
	series: declare('gatehouse.nodes', 'series', [ 'node' ]),
	rename: declare('gatehouse.nodes', 'rename', [ 'node', 'name' ]),
	pin: declare('gatehouse.nodes', 'pin', [ 'node', 'pinned' ]),
	merge: declare('gatehouse.nodes', 'merge', [ 'node', 'into' ]),
	split: declare('gatehouse.nodes', 'split', [ 'node' ]),
	forget: declare('gatehouse.nodes', 'forget', [ 'node' ]),
	flows: declare('gatehouse.flows', 'list', [ 'limit' ]),
	block: declare('gatehouse.flows', 'block', [ 'node1', 'node2' ]),
	unblock: declare('gatehouse.flows', 'unblock', [ 'node1', 'node2' ]),
	lists: declare('gatehouse.flows', 'lists', []),
	listNode: declare('gatehouse.flows', 'list_add', [ 'list', 'node' ]),
	unlistNode: declare('gatehouse.flows', 'list_remove', [ 'list', 'node' ]),
	listAddress: declare('gatehouse.flows', 'list_add', [ 'list', 'address' ]),
	unlistAddress: declare('gatehouse.flows', 'list_remove', [ 'list', 'address' ]),
	explain: declare('gatehouse', 'explain', [ 'from', 'to' ]),
	status: declare('gatehouse', 'status', []),
	leases: declare('gatehouse.tables', 'list', [ 'after' ]),
	lease: declare('gatehouse.tables', 'request', [ 'family', 'interface', 'address', 'tag', 'lifetime' ]),
	renew: declare('gatehouse.tables', 'renew', [ 'family', 'table' ]),
	release: declare('gatehouse.tables', 'release', [ 'family', 'table' ]),
	neighbours: declare('gatehouse.neighbours', 'list', []),
	conflicts: declare('gatehouse.neighbours', 'conflicts', [], { conflicts: [] }),
	resolve: declare('gatehouse.neighbours', 'resolve', [ 'address', 'device', 'fresh' ]),
	forgetNeighbour: declare('gatehouse.neighbours', 'forget', [ 'address', 'device' ]),
	gateway: declare('gatehouse.ipref', 'status', []),
	mappings: declare('gatehouse.ipref', 'mappings', [ 'after', 'limit', 'kind', 'state', 'peer', 'address' ]),
	peers: declare('gatehouse.ipref', 'peers', [ 'after' ]),
	drops: declare('gatehouse.ipref', 'drops', [], { drops: {} }),
	addMapping: declare('gatehouse.ipref', 'add', [ 'kind', 'address', 'context', 'reference' ]),
	removeMapping: declare('gatehouse.ipref', 'remove', [ 'kind', 'address', 'reference' ]),
	resolveName: declare('gatehouse.ipref', 'resolve', [ 'name' ]),
	isolation: declare('gatehouse.isolation', 'status', []),
	services: declare('gatehouse.isolation', 'list', [ 'after' ]),
	connect: declare('gatehouse.isolation', 'connect', [ 'name', 'peers', 'ports', 'direction' ]),
	disconnect: declare('gatehouse.isolation', 'disconnect', [ 'name', 'peer' ]),
	explainServices: declare('gatehouse.isolation', 'explain', [ 'from', 'to' ])
};

/* All nodes, or those of a kind, in order of their ids. */
function nodes(kind) {
	const all = [];
	const next = function(after) {
		return calls.list(after, pageSize, kind).then(function(answer) {
			const page = answer.nodes || [];
			for (const node of page)
				all.push(node);
			const isLast = page.length === 0 || (page.length < pageSize && !answer.more);
			return isLast ? all : next(page[page.length - 1].id);
		});
	};
	return next(0);
}

/* Says what went wrong with something that the user asked for. */
function complain(error) {
	ui.addNotification(null, E('p', [ String(error && error.message || error) ]), 'danger');
}

/*
 * A button that does something and then has the page look again.
 * act() returns a promise; its fault is shown.
 */
function button(label, style, act) {
	return E('button', {
		'type': 'button',
		'class': 'btn cbi-button ' + style,
		'click': ui.createHandlerFn(null, function() {
			return Promise.resolve().then(act).catch(complain);
		})
	}, [ label ]);
}

/* Whether this user may change anything; what offers a change is there for all, but dead for who may not. */
function mayChange() {
	return L.hasViewPermission() !== false;
}

/* Makes a button or a field dead for who may only look, and says why. */
function guard(element) {
	if (!mayChange()) {
		element.disabled = true;
		element.setAttribute('title', _('You may look, but not change anything.'));
	}
	return element;
}

/* A button that changes something; see button(). */
function change(label, style, act) {
	return guard(button(label, style, act));
}

/* Where a page says that the agent does not answer. */
function notice() {
	const node = E('div', { 'class': 'alert-message warning', 'style': 'display:none', 'role': 'status' }, [
		_('gatehouse does not answer. Is the service running?')
	]);
	return {
		node: node,
		show: function(shown) {
			node.style.display = shown ? '' : 'none';
		}
	};
}

/*
 * A part of the agent that is off at first, and on the bus only when it is on: where its page says so, with the way
 * to its switch.
 *
 *     node: to be shown; ask(look): what look() brings, null while the part is off, a fault if nobody answers.
 */
function part(text) {
	const node = E('div', { 'class': 'alert-message notice', 'style': 'display:none', 'role': 'status' }, [
		text, ' ', E('a', { 'href': L.url('admin/services/gatehouse/settings') }, [ _('Settings') ])
	]);
	const show = function(isOff) {
		node.style.display = isOff ? '' : 'none';
	};
	return {
		node: node,
		ask: function(look) {
			return look().then(function(answer) {
				show(false);
				return answer;
			}, function(error) {
				/* What uhttpd says of an object that is not there. */
				if (!/error -32000\b/.test(String(error && error.message)))
					throw error;
				return calls.status().then(function() {
					show(true);
					return null;
				});
			});
		}
	};
}

/* A field to type something into. */
function field(label, name, longest) {
	return E('input', {
		'type': 'text',
		'class': 'cbi-input-text',
		'name': name,
		'placeholder': label,
		'aria-label': label,
		'maxlength': String(longest || 64)
	});
}

/* A place to choose one of some words: [ value, text ] each. */
function choice(label, name, words) {
	return E('select', { 'class': 'cbi-input-select', 'name': name, 'aria-label': label }, words.map(function(word) {
		return E('option', { 'value': word[0] }, [ word[1] ]);
	}));
}

/* A section of a page, with a table that may be wider than it. */
function section(title, children) {
	return E('div', { 'class': 'cbi-section' }, [ E('h3', {}, [ title ]) ].concat(children));
}

function scroller(node) {
	return E('div', { 'style': 'overflow-x:auto' }, [ node ]);
}

/*
 * Calls look() now and again while the page can be seen, and shows whether it was answered.
 * Gives a function that looks at once, for after a change.
 */
function watch(look, seconds, sign) {
	const again = function() {
		return look().then(function() {
			sign.show(false);
		}, function(error) {
			sign.show(true);
			console.warn(error);
		});
	};
	let first = true;
	poll.add(function() {
		/* The page has just been drawn from what load() brought. */
		if (first || document.hidden) {
			first = false;
			return Promise.resolve();
		}
		return again();
	}, seconds);
	return again;
}

/* Replaces the children of a node; never markup. */
function fill(node, children) {
	return dom.content(node, [].concat(children));
}

return baseclass.extend({
	calls: calls,
	nodes: nodes,
	complain: complain,
	button: button,
	change: change,
	guard: guard,
	mayChange: mayChange,
	notice: notice,
	part: part,
	field: field,
	choice: choice,
	section: section,
	scroller: scroller,
	watch: watch,
	fill: fill
});
