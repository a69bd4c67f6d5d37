/*
 * The smallest stand-in for LuCI's browser side: the classes and globals that our pages use, behaving as LuCI's do
 * there. A string as the children of E() or dom.content() is markup here as it is there, so that a page which passes
 * one fails its tests; null in an array of children becomes the text "null".
 *
 * The page says whose it is in `window.standIn` = { session, readonly, translations: English text → translated text,
 * secondMs: how long a second is to what polls }.
 * The classes `form` and `uci` are in standform.js.
 */
'use strict';

(function () {
	const given = window.standIn;

	window._ = function (text) {
		return given.translations[text] || text;
	};
	window.N_ = function (count, one, many) {
		return window._(count === 1 ? one : many);
	};
	Object.defineProperty(String.prototype, 'format', {
		value: function (...values) {
			let at = 0;
			return this.replace(/%([%sd])/g, (whole, kind) => {
				if (kind === '%') return '%';
				const value = values[at++];
				return kind === 'd' ? String(Math.trunc(Number(value) || 0)) : String(value);
			});
		},
	});

	const dom = {
		elem: (node) => typeof node === 'object' && node !== null && 'nodeType' in node,
		append(node, children) {
			if (Array.isArray(children)) {
				for (const child of children)
					node.appendChild(dom.elem(child) ? child : document.createTextNode(String(child)));
			} else if (dom.elem(children)) {
				node.appendChild(children);
			} else if (children !== null && children !== undefined) {
				node.innerHTML = String(children);
			}
			return node.lastChild;
		},
		content(node, children) {
			while (node.firstChild) node.removeChild(node.firstChild);
			return dom.append(node, children);
		},
		attr(node, attributes) {
			for (const [name, value] of Object.entries(attributes)) {
				if (value === null || value === undefined) continue;
				if (typeof value === 'function') node.addEventListener(name, value);
				else node.setAttribute(name, typeof value === 'object' ? JSON.stringify(value) : value);
			}
		},
		create(name, attributes, children) {
			const plain = attributes instanceof Object && !Array.isArray(attributes);
			const node = document.createElement(name);
			if (plain) dom.attr(node, attributes);
			dom.append(node, plain ? children : attributes);
			return node;
		},
	};
	window.E = (name, attributes, children) => dom.create(name, attributes, children);

	class Base {
		constructor() {
			if (typeof this.__init__ === 'function') this.__init__();
		}
		static extend(properties) {
			class Extended extends this {}
			Object.assign(Extended.prototype, properties);
			return Extended;
		}
	}

	class View extends Base {
		__init__() {
			const place = document.getElementById('view');
			Promise.resolve()
				.then(() => this.load())
				.then((data) => this.render(data))
				.then((node) => {
					const wants = ['handleSaveApply', 'handleSave', 'handleReset'].some((name) => this[name] !== null);
					dom.content(place, wants ? [node, forms.footer(this)] : [node]);
					poll.start();
				})
				.catch((error) => dom.content(place, E('pre', {}, [String(error.stack || error)])));
		}
		load() {}
		render() {}
	}

	const poll = {
		queue: [],
		tick: 0,
		add(call, seconds) {
			poll.queue.push({ call, seconds: seconds || 5, ready: true });
		},
		start() {
			if (poll.timer) return;
			poll.step();
			poll.timer = setInterval(poll.step, given.secondMs);
		},
		step() {
			for (const entry of poll.queue) {
				if (poll.tick % entry.seconds !== 0 || !entry.ready) continue;
				entry.ready = false;
				Promise.resolve(entry.call()).finally(() => {
					entry.ready = true;
				});
			}
			poll.tick++;
		},
	};

	/* Calls made in one turn travel together, as LuCI's do. */
	let waiting = [];
	let lastId = 0;
	function flush() {
		const sent = waiting;
		waiting = [];
		const body = sent.map(({ request }) => request);
		fetch('/ubus/', {
			method: 'POST',
			headers: { 'content-type': 'application/json' },
			body: JSON.stringify(body),
		})
			.then((response) => response.json())
			.then((answers) => {
				for (const { request, take } of sent) take(answers.find((each) => each.id === request.id));
			})
			.catch((error) => {
				for (const { refuse } of sent) refuse(error);
			});
	}

	const kindOf = (value) => Object.prototype.toString.call(value);
	const rpc = {
		declare(options) {
			return (...values) =>
				new Promise((resolve, refuse) => {
					const args = {};
					(options.params || []).forEach((name, at) => {
						if (values[at] !== undefined) args[name] = values[at];
					});
					const where = 'RPC call to ' + options.object + '/' + options.method + ' failed with ';
					const take = (answer) => {
						if (!answer) return refuse(new Error(where + 'no answer'));
						if (answer.error)
							return refuse(new Error(where + 'error ' + answer.error.code + ': ' + answer.error.message));
						const [status, data] = answer.result;
						if (options.reject && status !== 0) return refuse(new Error(where + 'ubus code ' + status));
						let value = answer.result.length > 1 ? data : status;
						for (const [key, fallback] of Object.entries(options.expect || {})) {
							if (value !== null && key !== '') value = value[key];
							if (value === null || value === undefined || kindOf(value) !== kindOf(fallback)) value = fallback;
							break;
						}
						resolve(value);
					};
					const params = [given.session, options.object, options.method, args];
					if (waiting.length === 0) setTimeout(flush, 0);
					waiting.push({ request: { jsonrpc: '2.0', id: ++lastId, method: 'call', params }, take, refuse });
				});
		},
	};

	const ui = {
		showModal(title, children) {
			ui.hideModal();
			const dialogue = E('div', { class: 'modal', role: 'dialog' });
			dom.content(dialogue, dom.create('h4', {}, title));
			dom.append(dialogue, children);
			document.body.appendChild(E('div', { id: 'modal_overlay' }, [dialogue]));
			return dialogue;
		},
		hideModal() {
			const overlay = document.getElementById('modal_overlay');
			if (overlay) overlay.remove();
		},
		addNotification(title, children, ...classes) {
			const node = E('div', { class: 'alert-message ' + classes.join(' ') });
			if (title !== null) dom.append(node, E('h4', {}, title));
			dom.append(node, children);
			document.getElementById('maincontent').prepend(node);
			return node;
		},
		createHandlerFn(context, call, ...values) {
			return (event) => {
				const button = event.currentTarget;
				button.classList.add('spinning');
				button.disabled = true;
				return Promise.resolve(call.call(context, ...values, event)).finally(() => {
					button.classList.remove('spinning');
					button.disabled = false;
				});
			};
		},
	};

	const forms = window.standInForms({ dom, rpc, ui });
	const classes = new Map(
		Object.entries({ baseclass: Base, view: View, dom, rpc, poll, ui, form: forms.form, uci: forms.uci }).map(([name, thing]) => [
			name,
			Promise.resolve(thing),
		]),
	);

	async function load(name) {
		const response = await fetch('/luci-static/resources/' + name.replace(/\./g, '/') + '.js');
		if (!response.ok) throw new Error('HTTP error ' + response.status + ' while loading class ' + name);
		const source = await response.text();
		const names = [];
		const needed = [];
		for (const line of source.split('\n')) {
			const found = /^'(?:use strict|require (\S+)(?: as (\w+))?)';$/.exec(line);
			if (!found) break;
			if (!found[1]) continue;
			names.push(found[2] || found[1].replace(/\W/g, '_'));
			needed.push(L.require(found[1]));
		}
		const factory = new Function('window', 'document', 'L', ...names, source + '\n//# sourceURL=' + name + '.js');
		return new (factory(window, document, L, ...(await Promise.all(needed))))();
	}

	window.L = {
		env: {},
		url: (...parts) => '/cgi-bin/luci/' + parts.join('/'),
		hasViewPermission: () => !given.readonly,
		resolveDefault: (value, fallback) => Promise.resolve(value).catch(() => fallback),
		require(name) {
			if (!classes.has(name)) classes.set(name, load(name));
			return classes.get(name);
		},
	};

	/* LuCI's status page: each part loads and renders itself, now and again; where one renders nothing, what is shown stays. */
	window.standInOverview = async function (names) {
		const place = document.getElementById('view');
		for (const name of names) {
			const part = await L.require('view.status.include.' + name);
			const content = E('div', {}, []);
			const section = E('div', { class: 'cbi-section', style: 'display:none' }, [E('h3', {}, [part.title]), content]);
			place.appendChild(section);
			const draw = async () => {
				const drawn = part.render(await part.load());
				if (drawn === null) return;
				section.style.display = '';
				dom.content(content, drawn);
			};
			await draw();
			poll.add(draw);
		}
		poll.start();
	};
})();
