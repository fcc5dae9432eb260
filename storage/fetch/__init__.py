"""The datasets' files from where their authors publish them: who offers what, and how it is brought here whole."""
