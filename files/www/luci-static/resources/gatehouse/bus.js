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
	forgetNeighbour: declare('gatehouse.neighbours', 'forget', [ 'address', 'device' ])
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
	watch: watch,
	fill: fill
});
