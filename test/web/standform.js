/*
 * The smallest stand-in for LuCI's `uci` and `form`: what our page Settings uses of them, with LuCI's element ids,
 * classes and calls. Descriptions are markup here as they are there. Loaded before standin.js.
 */
'use strict';

window.standInForms = function ({ dom, rpc, ui }) {
	const call = {
		get: rpc.declare({ object: 'uci', method: 'get', params: ['config'], expect: { values: {} }, reject: true }),
		add: rpc.declare({
			object: 'uci',
			method: 'add',
			params: ['config', 'type', 'name', 'values'],
			expect: { section: '' },
			reject: true,
		}),
		set: rpc.declare({ object: 'uci', method: 'set', params: ['config', 'section', 'values'], reject: true }),
		delete: rpc.declare({ object: 'uci', method: 'delete', params: ['config', 'section', 'options'], reject: true }),
		apply: rpc.declare({ object: 'uci', method: 'apply', params: ['timeout', 'rollback'], reject: true }),
		confirm: rpc.declare({ object: 'uci', method: 'confirm', reject: true }),
	};

	/* Kept: by configuration its sections as read, and what is to be added, changed and removed. */
	const uci = {
		values: new Map(),
		fresh: new Map(),
		changed: new Map(),
		gone: new Set(),
		async load(name) {
			if (!uci.values.has(name)) uci.values.set(name, await call.get(name));
			return [name];
		},
		forget() {
			for (const each of [uci.values, uci.fresh, uci.changed, uci.gone]) each.clear();
		},
		sections(name, type) {
			const read = Object.entries(uci.values.get(name) || {});
			return [...read, ...uci.fresh]
				.filter(([id, section]) => !uci.gone.has(id) && section['.type'] === type)
				.sort(([, one], [, other]) => one['.index'] - other['.index'])
				.map(([, section]) => section);
		},
		get(name, id, option) {
			const changed = (uci.changed.get(id) || {})[option];
			if (changed !== undefined) return changed === null ? undefined : changed;
			return ((uci.values.get(name) || {})[id] || {})[option];
		},
		set(_name, id, option, value) {
			uci.changed.set(id, Object.assign(uci.changed.get(id) || {}, { [option]: value }));
		},
		unset(name, id, option) {
			uci.set(name, id, option, null);
		},
		add(_name, type, id) {
			const made = id || 'new' + (uci.fresh.size + 1);
			uci.fresh.set(made, { '.type': type, '.name': made, '.anonymous': !id, '.index': 1e6 + uci.fresh.size });
			return made;
		},
		remove(_name, id) {
			if (!uci.fresh.delete(id)) uci.gone.add(id);
			uci.changed.delete(id);
		},
		async save(name) {
			const renamed = new Map();
			for (const [id, section] of uci.fresh)
				renamed.set(id, await call.add(name, section['.type'], section['.anonymous'] ? undefined : id, {}));
			for (const [id, changes] of uci.changed) {
				const values = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== null));
				const left = Object.keys(changes).filter((option) => changes[option] === null);
				const target = renamed.get(id) || id;
				if (Object.keys(values).length > 0) await call.set(name, target, values);
				if (left.length > 0) await call.delete(name, target, left);
			}
			for (const id of uci.gone) await call.delete(name, id);
			uci.forget();
			await uci.load(name);
		},
		async apply() {
			await call.apply(30, true);
			await call.confirm();
		},
	};

	/* Just the data types that our page names. */
	const checks = {
		host: (text) => /^[A-Za-z0-9_.:-]+$/.test(text),
		ipaddr: (text) => /^(?:[0-9]+(?:\.[0-9]+){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$/.test(text),
		cidr: (text) => /^[0-9A-Fa-f:.]+\/[0-9]{1,3}$/.test(text),
		cidr4: (text) => /^[0-9.]+\/[0-9]{1,2}$/.test(text),
		cidr6: (text) => /^[0-9A-Fa-f:.]+\/[0-9]{1,3}$/.test(text),
		macaddr: (text) => /^(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$/.test(text),
	};
	function isOfType(type, text) {
		const range = /^and\(uinteger,range\((\d+),(\d+)\)\)$/.exec(type || '');
		if (range) return /^\d+$/.test(text) && Number(text) >= Number(range[1]) && Number(text) <= Number(range[2]);
		return !type || checks[type](text);
	}

	class Option {
		constructor(section, name, title, description) {
			Object.assign(this, { section, name, title, description, words: [], widgets: new Map() });
		}
		value(word) {
			this.words.push(word);
		}
		load(id) {
			return uci.get(this.section.map.config, id, this.name);
		}
		get readonly() {
			return this.section.map.readonly;
		}
		idOf(id) {
			return this.section.map.config + '.' + id + '.' + this.name;
		}
		/* Says at the field whether its value is one; an empty one is the default. */
		isValid(id) {
			return [].concat(this.shown(id)).every((text) => {
				if (text === '') return true;
				const verdict = this.validate ? this.validate(id, text) : true;
				return isOfType(this.datatype, text) && verdict === true;
			});
		}
		render(id) {
			const widget = this.draw(id, this.load(id));
			this.widgets.set(id, widget);
			const check = () => {
				widget.classList.toggle('cbi-input-invalid', !this.isValid(id));
			};
			widget.addEventListener('input', check);
			widget.addEventListener('change', check);
			const field = E('div', { class: 'cbi-value-field' }, [widget]);
			if (this.description) dom.append(field, E('div', { class: 'cbi-value-description' }, this.description));
			return E('div', { id: 'cbi-' + this.idOf(id).replaceAll('.', '-'), class: 'cbi-value', 'data-name': this.name }, [
				E('label', { class: 'cbi-value-title', for: 'widget.cbid.' + this.idOf(id) }, [this.title]),
				field,
			]);
		}
		parse(id) {
			if (!this.isValid(id)) throw new TypeError('Option "' + this.name + '" contains an invalid input value.');
			const [shown, before, name] = [this.shown(id), this.load(id), this.section.map.config];
			if (JSON.stringify(shown) === JSON.stringify(before)) return;
			if (shown.length > 0) uci.set(name, id, this.name, shown);
			else if (before !== undefined) uci.unset(name, id, this.name);
		}
	}

	class Value extends Option {
		draw(id, text) {
			return E('input', {
				id: 'widget.cbid.' + this.idOf(id),
				type: 'text',
				class: 'cbi-input-text',
				value: text,
				placeholder: this.placeholder,
				disabled: this.readonly,
			});
		}
		shown(id) {
			return this.widgets.get(id).value;
		}
	}

	class Flag extends Option {
		draw(id, text) {
			const box = E('input', { id: 'widget.cbid.' + this.idOf(id), type: 'checkbox', disabled: this.readonly });
			box.checked = (text === undefined ? this.default : text) === '1';
			return box;
		}
		shown(id) {
			return this.widgets.get(id).checked ? '1' : '0';
		}
		parse(id) {
			if (this.shown(id) !== this.default) super.parse(id);
			else if (this.load(id) !== undefined && this.load(id) !== this.default)
				uci.unset(this.section.map.config, id, this.name);
		}
	}

	class ListValue extends Option {
		draw(id, text) {
			const list = E(
				'select',
				{ id: 'widget.cbid.' + this.idOf(id), class: 'cbi-input-select', disabled: this.readonly },
				this.words.map((word) => E('option', { value: word }, [word])),
			);
			list.value = text === undefined ? this.default : text;
			return list;
		}
		shown(id) {
			return this.widgets.get(id).value;
		}
	}

	/* A line for each value and one for another, which has the name; LuCI's has buttons to add and remove. */
	class DynamicList extends Option {
		draw(id, list) {
			const items = [].concat(list === undefined ? [] : list);
			return E(
				'div',
				{ id: 'cbid.' + this.idOf(id), class: 'cbi-dynlist' },
				[...items, ''].map((each, at) =>
					E('input', {
						id: at === items.length ? 'widget.cbid.' + this.idOf(id) : null,
						type: 'text',
						class: 'cbi-input-text',
						value: each,
						placeholder: this.placeholder,
						disabled: this.readonly,
					}),
				),
			);
		}
		shown(id) {
			return [...this.widgets.get(id).querySelectorAll('input')].map((each) => each.value).filter(Boolean);
		}
	}

	class MultiValue extends Option {
		draw(id, list) {
			const chosen = [].concat(list === undefined ? this.default : list);
			return E(
				'div',
				{ id: 'widget.cbid.' + this.idOf(id), class: 'cbi-dropdown' },
				this.words.map((word) => {
					const box = E('input', { type: 'checkbox', value: word, disabled: this.readonly });
					box.checked = chosen.includes(word);
					return E('label', {}, [box, ' ' + word + ' ']);
				}),
			);
		}
		shown(id) {
			return [...this.widgets.get(id).querySelectorAll('input:checked')].map((each) => each.value);
		}
	}

	class TypedSection {
		constructor(map, type, title) {
			Object.assign(this, { map, type, title, options: [] });
		}
		option(Class, ...about) {
			const option = new Class(this, ...about);
			this.options.push(option);
			return option;
		}
		ids() {
			return uci.sections(this.map.config, this.type).map((each) => each['.name']);
		}
		render() {
			const again = (act) => ui.createHandlerFn(null, () => this.map.keep().then(act).then(() => this.map.draw()));
			const button = (style, label, act) =>
				E('button', { type: 'button', class: 'cbi-button ' + style, click: again(act), disabled: this.map.readonly }, [
					label,
				]);
			const parts = this.ids().map((id) =>
				E('div', { id: 'cbi-' + this.map.config + '-' + id, class: 'cbi-section-node' }, [
					...(this.addremove
						? [button('cbi-button-remove', _('Delete'), () => uci.remove(this.map.config, id))]
						: []),
					...(this.anonymous ? [] : [E('h3', {}, [id])]),
					...this.options.map((option) => option.render(id)),
				]),
			);
			const name = E('input', { type: 'text', class: 'cbi-section-create-name', disabled: this.map.readonly });
			const add = button('cbi-button-add', _('Add'), () =>
				uci.add(this.map.config, this.type, this.anonymous ? undefined : name.value),
			);
			return E('div', { class: 'cbi-section', 'data-tab': this.type, 'data-tab-title': this.title }, [
				E('h3', {}, [this.title]),
				...parts,
				...(parts.length > 0 ? [] : [E('em', {}, [_('This section contains no values yet')])]),
				...(this.addremove ? [E('div', { class: 'cbi-section-create' }, this.anonymous ? [add] : [name, add])] : []),
			]);
		}
	}

	class FormMap {
		constructor(config, title, description) {
			Object.assign(this, { config, title, description, sections: [], open: 0 });
			this.node = E('div', { id: 'cbi-' + config, class: 'cbi-map' });
			this.readonly = L.hasViewPermission() === false ? true : null;
			this.node.map = this;
		}
		section(Class, ...about) {
			const section = new Class(this, ...about);
			this.sections.push(section);
			return section;
		}
		async render() {
			await uci.load(this.config);
			this.draw();
			return this.node;
		}
		draw() {
			const drawn = this.sections.map((section) => section.render());
			const tabs = this.sections.map((section, at) =>
				E('li', { class: 'cbi-tab', 'data-tab': section.type }, [
					E('a', { href: '#', click: (event) => [event.preventDefault(), show(at)] }, [section.title]),
				]),
			);
			const show = (at) => {
				this.open = at;
				drawn.forEach((each, which) => {
					each.style.display = which === at ? '' : 'none';
					tabs[which].className = which === at ? 'cbi-tab' : 'cbi-tab-disabled';
				});
			};
			show(this.open);
			dom.content(this.node, [
				E('h2', {}, [this.title]),
				E('div', { class: 'cbi-map-descr' }, this.description),
				E('ul', { class: 'cbi-tabmenu map' }, tabs),
				...drawn,
			]);
		}
		/* What is in the fields, into uci's changes. */
		async keep() {
			for (const section of this.sections)
				for (const id of section.ids()) for (const option of section.options) option.parse(id);
		}
		async save() {
			await this.keep();
			await uci.save(this.config);
			this.draw();
		}
		async reset() {
			uci.forget();
			await this.render();
		}
	}

	const form = { Map: FormMap, TypedSection, Value, Flag, ListValue, DynamicList, MultiValue };

	/* The buttons below a page with forms, as LuCI's views have them unless they say otherwise. */
	function footer(view) {
		const maps = () => [...document.querySelectorAll('.cbi-map')].map((each) => each.map);
		const own = {
			handleSave: () => Promise.all(maps().map((map) => map.save())),
			handleReset: () => Promise.all(maps().map((map) => map.reset())),
			handleSaveApply: () =>
				own.handleSave().then(() =>
					uci.apply().then(() => ui.addNotification(null, E('p', {}, [_('Configuration changes applied.')]), 'success')),
				),
		};
		const kinds = [
			['handleSaveApply', 'apply important', _('Save & Apply')],
			['handleSave', 'save', _('Save')],
			['handleReset', 'reset', _('Reset')],
		];
		const buttons = kinds
			.filter(([name]) => view[name] !== null)
			.map(([name, style, label]) =>
				E(
					'button',
					{
						type: 'button',
						class: 'btn cbi-button cbi-button-' + style,
						disabled: L.hasViewPermission() === false ? true : null,
						click: ui.createHandlerFn(null, () =>
							own[name]().catch((error) => {
								ui.addNotification(null, E('p', {}, [String(error.message || error)]), 'danger');
							}),
						),
					},
					[label],
				),
			);
		return E('div', { class: 'cbi-page-actions' }, buttons);
	}

	return { uci, form, footer };
};
