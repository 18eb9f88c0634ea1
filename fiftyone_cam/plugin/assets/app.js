// What only the browser can do. The App loads this file with the plugin; Python triggers these operators by their names.
//
// The App has no way, for Python alone, to tell an open sidebar of new groups, or to show progress without a dialog over
// everything, whose button "Done" is none.
(() => {
  "use strict";
  const { Operator, OperatorConfig, executeOperator, registerOperator, usePromptOperatorInput } = window.__foo__;
  const { useRecoilCallback } = window.recoil;
  const fos = window.__fos__;
  const { getFetchFunction } = window.__fou__;
  const PLUGIN = "@fiftyone-cam/cam";
  const GROUPS = ["CAM", "CAM numbers"];

  const unlisted = (name) => new OperatorConfig({ name, label: name, unlisted: true });
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  /** Whether the App knows a field by now. */
  const useKnown = () =>
    useRecoilCallback(({ snapshot }) => async (path) => Boolean(await snapshot.getPromise(fos.field(path))));

  /** Whether fields are known at last: a dataset that is reloaded comes some time later. Others need not wait for it. */
  async function whenKnown(known, paths) {
    for (let tries = 0; tries < 100; tries++) {
      if ((await Promise.all(paths.map(known))).every(Boolean)) return true;
      await pause(100);
    }
    return false;
  }

  /** The sidebar's groups with ours among them: where they were, or else behind the labels. */
  function arranged(current, ours) {
    const taken = new Set(ours.flatMap((group) => group.paths));
    const wanted = new Map(ours.map((group) => [group.name, group]));
    const groups = [];
    for (const group of current) {
      if (!GROUPS.includes(group.name)) {
        if (taken.has(group.name)) continue;  // the App's own, for a field that it found in no group
        groups.push({ ...group, paths: group.paths.filter((path) => !taken.has(path)) });
      } else if (wanted.has(group.name)) {
        groups.push({ ...group, paths: wanted.get(group.name).paths });
        wanted.delete(group.name);
      }
    }
    const before = ["metadata", "labels", "CAM"];
    for (const group of wanted.values()) {
      const at = groups.reduce((last, { name }, index) => (before.includes(name) ? index : last), -1);
      groups.splice(at + 1, 0, group);
    }
    return groups;
  }

  /** params: groups, as fiftyone_cam/dataset/app_config.py: groups() gives them. */
  class ArrangeSidebar extends Operator {
    get config() {
      return unlisted("arrange_sidebar");
    }
    useHooks() {
      return {
        known: useKnown(),
        arrange: useRecoilCallback(({ set }) => (groups) => {
          for (const modal of [false, true]) {  // beside the grid, and beside an open sample
            set(fos.sidebarGroupsDefinition(modal), (current) => (current.length ? arranged(current, groups) : current));
          }
        }),
      };
    }
    async execute({ hooks, params }) {
      const paths = params.groups.flatMap((group) => group.paths);
      whenKnown(hooks.known, paths).then((there) => there && hooks.arrange(params.groups));
    }
  }

  const SAMPLE = `query($dataset: String!, $view: BSONArray!, $filter: SampleFilter!) {
    sample(dataset: $dataset, view: $view, filter: $filter) { ... on Sample { sample } } }`;

  /** params: sample, shown. Open a sample that is open anew, with a heatmap in place of others: the App asks for it once. */
  class ReopenSample extends Operator {
    get config() {
      return unlisted("reopen_sample");
    }
    useHooks() {
      return {
        known: useKnown(),
        open: useRecoilCallback(({ snapshot }) => async () => ({
          modal: await snapshot.getPromise(fos.modalSelector),
          dataset: await snapshot.getPromise(fos.datasetName),
          view: await snapshot.getPromise(fos.view),
        })),
        close: useRecoilCallback(({ set }) => () => set(fos.modalSelector, null)),
        reopen: useRecoilCallback(({ set, snapshot }) => async (modal, shown) => {
          const active = await snapshot.getPromise(fos.activeFields({ modal: true }));
          const fields = await Promise.all(active.map((path) => snapshot.getPromise(fos.field(path))));
          const others = active.filter((path, at) => path !== shown && !fields[at]?.embeddedDocType?.endsWith("Heatmap"));
          set(fos.activeFields({ modal: true }), [shown, ...others]);
          set(fos.modalSelector, modal);
        }),
      };
    }
    async execute({ hooks, params }) {
      const again = async () => {
        if (!(await whenKnown(hooks.known, [params.shown]))) return;
        const { modal, dataset, view } = await hooks.open();
        if (modal?.id !== params.sample) return;
        const variables = { dataset, view, filter: { id: modal.id, group: null } };
        const { data } = await getFetchFunction()("POST", "/graphql", { query: SAMPLE, variables });
        const found = data?.sample?.sample;
        if (!found) return;
        hooks.close();
        await pause(100);
        fos.getCurrentEnvironment().commitUpdate((store) => {
          store.get(`${modal.id}-modal`)?.setValue(typeof found === "string" ? found : JSON.stringify(found), "sample");
        });
        await hooks.reopen(modal, params.shown);
      };
      again();
    }
  }

  const HIDDEN = ["id", "range"];

  /** params: dataset, fields. Leave out of the tooltips what means nothing to a person, unless somebody chose already. */
  class PlainTooltips extends Operator {
    get config() {
      return unlisted("plain_tooltips");
    }
    async execute({ params }) {
      for (const path of params.fields) {
        const key = `fo-hiddenLabels-${params.dataset}-${path}`;  // where the App keeps what is hidden there
        if (localStorage.getItem(key) === null) localStorage.setItem(key, HIDDEN.join(","));
      }
      window.dispatchEvent(new CustomEvent("fo-hide-label-change"));
    }
  }

  /** params: color_by, colorscales, as fiftyone_cam/dataset/app_config.py: stored_scheme() gives them. Draw them, once. */
  class DrawScales extends Operator {
    get config() {
      return unlisted("draw_scales");
    }
    useHooks() {
      return {
        draw: useRecoilCallback(({ set }) => ({ color_by, colorscales }) => {
          set(fos.colorScheme, (now) => {
            const same = now.colorscales?.length === colorscales.length;  // the App would not paint anew
            return {
              ...now,
              colorBy: color_by ?? now.colorBy,
              colorscales: same ? [...colorscales, colorscales[0]] : colorscales,  // it takes a field's first scale
            };
          });
        }),
      };
    }
    async execute({ hooks, params }) {
      hooks.draw(params);
    }
  }

  /** params: dataset, operators as pairs of a name and params. Execute them if the App shows the dataset. */
  class WhenOpen extends Operator {
    get config() {
      return unlisted("when_open");
    }
    useHooks() {
      return { open: useRecoilCallback(({ snapshot }) => () => snapshot.getPromise(fos.datasetName)) };
    }
    async execute({ hooks, params }) {
      if ((await hooks.open()) !== params.dataset) return;
      for (const [operator, asked] of params.operators) executeOperator(operator, asked);
    }
  }

  /** params: operator, params. Close what an operator said in the end, and open a form, filled in. */
  class OpenForm extends Operator {
    get config() {
      return unlisted("open_form");
    }
    useHooks() {
      return { prompt: usePromptOperatorInput() };
    }
    async execute({ hooks, params }) {
      const buttons = document.querySelectorAll('[data-cy="operators-prompt-view-modal"] button');
      [...buttons].find((button) => button.textContent === "Done")?.click();
      hooks.prompt(params.operator, params.params);
    }
  }

  const STACK = `position: fixed; left: 50%; bottom: 24px; transform: translateX(-50%); z-index: 2000;
    width: min(640px, 90vw); display: flex; flex-direction: column; gap: 8px;`;
  const STYLE = `
    box-sizing: border-box; padding: 12px 16px; border-radius: 6px; font-size: 14px; line-height: 1.5;
    color: var(--fo-palette-text-primary); background: var(--fo-palette-background-level2);
    border: 1px solid var(--fo-palette-divider); box-shadow: 0 4px 16px rgba(0, 0, 0, 0.4);`;

  function made(tag, style, text) {
    const element = document.createElement(tag);
    element.style.cssText = style;
    element.textContent = text ?? "";
    return element;
  }

  /** Where strips stand above each other: more than one work may go on at a time. */
  function stack() {
    const there = document.querySelector('[data-cy="cam-works"]');
    if (there) return there;
    const place = made("div", STACK);
    place.dataset.cy = "cam-works";
    document.body.append(place);
    return place;
  }

  /** The strip of one work: a line of words, a bar, and a button that stops it. */
  function strip(work, note) {
    const root = made("div", STYLE);
    root.dataset.cy = "cam-progress";
    root.dataset.work = work;
    const line = made("div", "display: flex; align-items: center; gap: 12px;");
    const label = made("div", "flex: 1;");
    label.setAttribute("role", "status");
    const stop = made("button", `cursor: pointer; padding: 4px 14px; border-radius: 4px; font-size: 14px;
      background: none; color: inherit; border: 1px solid currentColor;`, "Stop");
    stop.onclick = () => {
      stop.disabled = true;
      label.textContent = "Stopping";
      executeOperator(`${PLUGIN}/stop_work`, { work });
    };
    line.append(label, stop);
    const bar = made("div", "height: 4px; margin: 8px 0; border-radius: 2px; background: var(--fo-palette-divider);");
    const done = made("div", `height: 100%; width: 0; border-radius: 2px; transition: width 0.4s;
      background: var(--fo-palette-primary-plainColor);`);
    bar.append(done);
    root.append(line, bar, made("div", "font-size: 12px; color: var(--fo-palette-text-secondary);", note));
    stack().append(root);
    return Object.assign(root, { label, done, stop });
  }

  /** The server has ended, or cannot be reached: say so, and let the strip be closed. */
  function giveUp(root) {
    root.silent = true;
    root.label.textContent = "Nothing is heard from the server any more. What was computed is kept.";
    root.stop.textContent = "Close";
    root.stop.disabled = false;
    root.stop.onclick = () => root.remove();
  }

  /** params: work, label, progress from 0 to 1 or null, note; without a label, the work is over. */
  class ShowWork extends Operator {
    get config() {
      return unlisted("show_work");
    }
    async execute({ params }) {
      const { work, label, progress, note } = params;
      const there = [...document.querySelectorAll('[data-cy="cam-progress"]')];
      const mine = there.find((element) => element.dataset.work === work);
      if (!label || mine?.silent) {
        clearTimeout(mine?.silence);
        mine?.remove();
        if (!label) return;
      }
      const shown = mine?.isConnected ? mine : strip(work, note);
      if (!shown.stop.disabled) shown.label.textContent = label;
      shown.done.style.width = `${100 * (progress ?? 0)}%`;
      clearTimeout(shown.silence);
      shown.silence = setTimeout(() => giveUp(shown), 30000);  // there is news twice a second
    }
  }

  for (const operator of [ArrangeSidebar, ReopenSample, PlainTooltips, DrawScales, WhenOpen, OpenForm, ShowWork]) {
    registerOperator(operator, PLUGIN);
  }
})();
