from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []  # type: ignore[var-annotated]
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("card", models.CharField(max_length=40)),
                ("pieces", models.PositiveIntegerField()),
                ("state", models.CharField(default="new", max_length=20)),
                ("cents", models.PositiveIntegerField(default=0)),
            ],
        ),
    ]
