// Saves what the server hands over, {name, content}, as a file of the browser.
watch("value", () => {
  if (!props.value) return;
  const link = document.createElement("a");
  link.href = props.value.content;
  link.download = props.value.name;
  link.click();
  props.value = null;  // the same file may be wanted again
});
