// Hands a file that is chosen or dropped to the server, or the name of an example. `props.most` is in bytes.
const input = () => element.querySelector("input[type=file]");
const say = (text) => { element.querySelector(".note").textContent = text; };

function send(file) {
  if (!file) return;
  if (file.size > props.most) {
    const megabytes = (bytes) => Math.round(bytes / 1e6);
    say(`${file.name} has ${megabytes(file.size)} MB; a file may have ${megabytes(props.most)} MB`);
    return;
  }
  say(`sending ${file.name}`);
  const reader = new FileReader();
  reader.onerror = () => say(`${file.name} cannot be read`);
  reader.onload = () => {
    say(file.name);
    trigger("sent", { name: file.name, data: reader.result.split(",")[1] || "" });
  };
  reader.readAsDataURL(file);
}

element.addEventListener("change", (event) => {
  if (event.target !== input()) return;
  send(event.target.files[0]);
  event.target.value = "";  // the same file may be chosen again
});
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  send(event.dataTransfer.files[0]);
});
element.addEventListener("click", (event) => {
  const example = event.target.closest("[data-example]");
  if (example) {
    say("");
    trigger("example", { name: example.dataset.example });
  }
});
