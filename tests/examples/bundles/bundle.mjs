// Bundles a component with a page that shows it: node bundle.mjs FOLDER-OF-PACKAGES COMPONENT OUT
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [folder, component, out] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { build } = require("esbuild");
const isVue = component.endsWith(".vue");
const name = JSON.stringify(component);
const properties = `{ user: "ann", server: "ws://" + location.host }`;
const entry = isVue
  ? `import { createApp } from "vue"; import Bell from ${name}; createApp(Bell, ${properties}).mount("#bell");`
  : `import { createElement } from "react"; import { createRoot } from "react-dom/client"; import { Bell } from ${name};
     createRoot(document.querySelector("#bell")).render(createElement(Bell, ${properties}));`;

/** Compiles a component of one file, as the bundlers' plugins do. */
const vue = {
  name: "vue",
  setup(made) {
    made.onLoad({ filter: /\.vue$/ }, ({ path }) => {
      const { parse, compileScript } = require("vue/compiler-sfc");
      const { descriptor } = parse(readFileSync(path, "utf8"), { filename: path });
      return { contents: compileScript(descriptor, { id: "bell", inlineTemplate: true }).content, loader: "js" };
    });
  },
};

await build({
  stdin: { contents: entry, resolveDir: folder },
  outfile: out,
  bundle: true,
  format: "iife",
  jsx: "automatic",
  nodePaths: [`${folder}/node_modules`],
  define: { "process.env.NODE_ENV": '"production"', __VUE_OPTIONS_API__: "false", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" },
  plugins: [vue],
});
